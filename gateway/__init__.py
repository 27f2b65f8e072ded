"""Wiring, data plane and console home: the top floor."""

from gateway.celery import app as celery_app

__all__ = ("celery_app",)
