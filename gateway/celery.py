"""The Celery application and its clock. Tasks live in each app's tasks.py; none of them carries the truth."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")

app = Celery("tollhouse")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.conf.beat_schedule = {
    "drain-usage": {"task": "gateway.tasks.drain_usage", "schedule": 1.0, "options": {"expires": 2}},
    "close-abandoned": {
        "task": "gateway.tasks.close_abandoned",
        "schedule": 10.0,
        "options": {"expires": 10},
    },
    "check-budgets": {"task": "gateway.tasks.check_budgets", "schedule": 60.0, "options": {"expires": 60}},
    "run-replays": {"task": "gateway.tasks.run_replays", "schedule": 2.0, "options": {"expires": 2}},
    "prune-idempotency": {
        "task": "tenants.tasks.prune_idempotency",
        "schedule": 3600.0,
        "options": {"expires": 600},
    },
    "check-idle-endpoints": {
        "task": "routing.tasks.check_idle_endpoints",
        "schedule": 15.0,
        "options": {"expires": 15},
    },
    "record-health": {"task": "routing.tasks.record_health", "schedule": 30.0, "options": {"expires": 30}},
    "prune-health": {"task": "routing.tasks.prune_health", "schedule": 3600.0, "options": {"expires": 600}},
    "prepare-partitions": {
        "task": "gateway.tasks.prepare_partitions",
        "schedule": 3600.0,
        "options": {"expires": 600},
    },
    "evaluate-rollouts": {
        "task": "gateway.tasks.evaluate_rollouts",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "evaluate-alerts": {
        "task": "billing.tasks.evaluate_alerts",
        "schedule": 1.0,
        "options": {"expires": 2},
    },
    "deliver-alerts": {"task": "billing.tasks.deliver_alerts", "schedule": 3.0, "options": {"expires": 3}},
    "sweep-alerts": {"task": "billing.tasks.sweep_alerts", "schedule": 60.0, "options": {"expires": 60}},
    "close-periods": {
        "task": "billing.tasks.close_periods",
        "schedule": 300.0,
        "options": {"expires": 300},
    },
    "change-subscriptions": {
        "task": "billing.tasks.change_subscriptions",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "expire-credit": {"task": "billing.tasks.expire_credit", "schedule": 60.0, "options": {"expires": 60}},
    "move-payments": {"task": "billing.tasks.move_payments", "schedule": 60.0, "options": {"expires": 60}},
    "remind-of-invoices": {
        "task": "billing.tasks.remind_of_invoices",
        "schedule": 300.0,
        "options": {"expires": 300},
    },
    "evaluate-alert-trends": {
        "task": "billing.tasks.evaluate_alert_trends",
        "schedule": 3600.0,
        "options": {"expires": 600},
    },
    "prove-ledger": {
        "task": "billing.tasks.prove_ledger",
        "schedule": 3600.0,
        "options": {"expires": 600},
    },
    "pull-due-bills": {
        "task": "billing.tasks.pull_due_bills",
        "schedule": 3600.0,
        "options": {"expires": 600},
    },
    "run-reratings": {"task": "gateway.tasks.run_reratings", "schedule": 5.0, "options": {"expires": 5}},
}
