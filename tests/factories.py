"""Rows for tests, made by the product's own verbs where there is one. Every argument has a default."""

import itertools
import random
from typing import Any

from django.test import Client
from rest_framework.test import APIClient

from tenants import keys
from tenants.models import CustomRole, Membership, Tenant, User
from tenants.principal import SYSTEM, Principal

_numbers = itertools.count(1)


def tenant(slug: str | None = None, **fields: Any) -> Tenant:
    slug = slug or f"tenant-{next(_numbers)}"
    return Tenant.objects.create(slug=slug, **{"name": slug.title(), **fields})


def user(email: str | None = None, *, password: str | None = None, **fields: Any) -> User:
    return User.objects.create_user(email or f"person-{next(_numbers)}@example.com", password, **fields)


def member(of: Tenant, role: str | CustomRole = "owner", *, person: User | None = None) -> Membership:
    own = role if isinstance(role, CustomRole) else None
    return Membership.objects.create(
        tenant=of, user=person or user(), role=own.slug if own else role, custom_role=own
    )


def api_key(
    of: Tenant | None, *scopes: str, name: str = "key", actor: Principal = SYSTEM, **rights: Any
) -> keys.Issued:
    """A key of a tenant, or of the platform when `of` is None. Without scopes it may do everything there."""
    return keys.issue(tenant=of, name=name, scopes=scopes or ("*",), actor=actor, **rights)


def browser(**headers: Any) -> Client:
    """A browser at an address of its own: sign-ins are limited by address, and tests share the limits."""
    a, b, c = (random.randrange(1, 255) for _ in range(3))
    return Client(REMOTE_ADDR=f"10.{a}.{b}.{c}", **headers)


def key_client(text: str) -> APIClient:
    """A REST client that sends this key."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    return client


def client_with(of: Tenant | None, *scopes: str) -> APIClient:
    """A REST client with a fresh key of these scopes."""
    return key_client(api_key(of, *scopes).text)
