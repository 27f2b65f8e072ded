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
        # Needs the models; schema registers with drf-spectacular, sign_ins with allauth's signals.
        from tenants import approvals, isolation, schema, sign_ins  # noqa: F401, PLC0415

        checks.register(approvals.check_setting)
        checks.register(isolation.check_walls, checks.Tags.database, deploy=True)
