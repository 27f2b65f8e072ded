"""The Celery application and its clock. Tasks live in each app's tasks.py; none of them carries the truth."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")

app = Celery("tollhouse")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

SCHEDULE = (
    # every s, forgotten after s when nobody had time for it, task
    (1, 2, "gateway.tasks.drain_usage"),
    (1, 2, "gateway.tasks.drain_content"),
    (1, 2, "billing.tasks.evaluate_alerts"),
    (2, 2, "gateway.tasks.run_replays"),
    (3, 3, "billing.tasks.deliver_alerts"),
    (5, 5, "gateway.tasks.run_reratings"),
    (5, 5, "tenants.tasks.stream_audit"),
    (5, 5, "gateway.tasks.run_erasures"),
    (10, 10, "gateway.tasks.close_abandoned"),
    (15, 15, "routing.tasks.check_idle_endpoints"),
    (30, 30, "routing.tasks.record_health"),
    (60, 60, "gateway.tasks.check_budgets"),
    (60, 60, "tenants.tasks.tend_proposals"),
    (60, 60, "gateway.tasks.evaluate_rollouts"),
    (60, 60, "billing.tasks.sweep_alerts"),
    (60, 60, "billing.tasks.change_subscriptions"),
    (60, 60, "billing.tasks.expire_credit"),
    (60, 60, "billing.tasks.move_payments"),
    (300, 300, "tenants.tasks.rewrap_data_keys"),
    (300, 300, "tenants.tasks.reseal_values"),
    (300, 300, "billing.tasks.close_periods"),
    (300, 300, "billing.tasks.remind_of_invoices"),
    (3600, 600, "tenants.tasks.prune_idempotency"),
    (3600, 600, "tenants.tasks.forget_audit"),
    (3600, 600, "routing.tasks.prune_health"),
    (3600, 600, "gateway.tasks.prepare_partitions"),
    (3600, 600, "gateway.tasks.purge"),
    (3600, 600, "billing.tasks.evaluate_alert_trends"),
    (3600, 600, "billing.tasks.prove_ledger"),
    (3600, 600, "billing.tasks.pull_due_bills"),
)
app.conf.beat_schedule = {
    task.rpartition(".")[2]: {"task": task, "schedule": float(every_s), "options": {"expires": expires_s}}
    for every_s, expires_s, task in SCHEDULE
}
