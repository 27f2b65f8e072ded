from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"
    sealed_columns = ("AlertChannel.sealed", "BillSource.sealed")  # see tenants/resealing.py
