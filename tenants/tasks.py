"""Celery entrances of the tenants floor. Running one twice does no harm."""

from celery import shared_task
from django.utils import timezone

from tenants import idempotency


@shared_task
def prune_idempotency() -> int:
    """Hourly: forget the answers kept for Idempotency-Keys beyond 24 hours; returns how many."""
    return idempotency.prune(now=timezone.now())
