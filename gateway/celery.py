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
    "run-replays": {"task": "gateway.tasks.run_replays", "schedule": 2.0, "options": {"expires": 2}},
    "prune-idempotency": {
        "task": "tenants.tasks.prune_idempotency",
        "schedule": 3600.0,
        "options": {"expires": 600},
    },
    "prepare-partitions": {
        "task": "gateway.tasks.prepare_partitions",
        "schedule": 3600.0,
        "options": {"expires": 600},
    },
}
