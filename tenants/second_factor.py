"""Who owes a second factor, and the middleware that lets them do nothing else until they have one.

A person's own factor always counts. A sign-in at a tenant's provider counts for that tenant alone, and only
where its connection says so.
"""

from collections.abc import Callable
from typing import Final
from uuid import UUID

from allauth.account.internal.flows.login import get_authentication_records
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect

from tenants import sessions
from tenants.errors import ApiError
from tenants.models import SignInSetting, SsoConnection, User
from tenants.wire import request_id_of

FACTORS: Final = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)
OPEN: Final = ("/accounts/", "/static/", "/healthz", "/readyz")
WORDS: Final = "Set up a second factor first: an authenticator app or a passkey."


def has_factor(user: User) -> bool:
    """Whether an authenticator app or a passkey is set up. Recovery codes alone are none."""
    return bool(Authenticator.objects.filter(user_id=user.pk, type__in=FACTORS).exists())


def is_due(request: HttpRequest, user: User) -> bool:
    """Whether somebody demands a second factor of this person in this session and they have none."""
    if user.operator_role or user.is_staff:
        return bool(settings.REQUIRE_MFA_FOR_OPERATORS) and not has_factor(user)
    demanding = set(
        SignInSetting.objects.filter(require_mfa=True, tenant__memberships__user=user).values_list(
            "tenant_id", flat=True
        )
    )
    return bool(demanding - _vouched(request, user)) and not has_factor(user)


def _vouched(request: HttpRequest, user: User) -> set[UUID]:
    """Tenants whose provider this session came through, and whose connection counts as a second factor."""
    through = {
        record["provider"]
        for record in get_authentication_records(request, user)
        if record.get("method") == "socialaccount"
    }
    if not through:
        return set()
    return set(
        SsoConnection.objects.filter(id__in=through, counts_as_mfa=True, is_enabled=True).values_list(
            "tenant_id", flat=True
        )
    )


def second_factor_first(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: notes that a session is alive, and sends who owes a second factor to set one up.

    The API answers 403, a fragment 401 (the page around it reloads and is sent there whole).
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if not request.path.startswith("/static/") and settings.SESSION_COOKIE_NAME in request.COOKIES:
            user = request.user
            if isinstance(user, User):
                sessions.note_alive(request)
                if not request.path.startswith(OPEN) and not _brings_a_key(request) and is_due(request, user):
                    return _sent_away(request)
        return get_response(request)

    return middleware


def _brings_a_key(request: HttpRequest) -> bool:
    """Then the session is not asked at all: see tenants/authentication.py."""
    is_api = request.path.startswith(("/api/", "/v1/"))
    return is_api and bool(request.headers.get("Authorization") or request.headers.get("x-api-key"))


def _sent_away(request: HttpRequest) -> HttpResponse:
    if request.path.startswith("/api/"):
        error = ApiError("permission_denied", WORDS)
        return JsonResponse(error.body(request_id_of(request)), status=error.status)
    if request.headers.get("HX-Request") == "true":
        return HttpResponse(status=401)
    messages.warning(request, WORDS)
    return redirect("mfa_index")
