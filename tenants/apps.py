from django.apps import AppConfig
from django.core import checks


class TenantsConfig(AppConfig):
    name = "tenants"
    sealed_columns = (  # see tenants/resealing.py
        "AuditSink.sealed",
        "RetentionSetting.pseudonym_key",
        "SsoConnection.client_secret",
    )

    def ready(self) -> None:
        from tenants import isolation, schema  # noqa: F401, PLC0415 - schema registers with drf-spectacular

        checks.register(isolation.check_walls, checks.Tags.database, deploy=True)
