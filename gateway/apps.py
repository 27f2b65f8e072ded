from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "gateway"
    sealed_columns = (  # see tenants/resealing.py
        "ContentDayKey.sealed_key",
        "Erasure.sealed_name",
        "PrivacyProfile.sealed_webhook_secrets",
    )
