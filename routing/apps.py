from django.apps import AppConfig


class RoutingConfig(AppConfig):
    name = "routing"
    sealed_columns = ("Credential.secret",)  # see tenants/resealing.py
