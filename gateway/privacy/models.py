"""Rules for personal data and guardrails, and whose calls they rule. Never holds what a call said.

`gateway.models` imports them, so that Django finds them.
"""

from typing import Any, Final

from django.db import models

from tenants import encryption
from tenants.models import OwnedQuerySet, Stamped, Tenant

MAX_VAULT_DAYS: Final = 365


class PrivacyProfile(Stamped):
    """One set of rules. Of a tenant, or of the operator (tenant null): the operator's are mandatory where bound."""

    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="privacy_profiles"
    )
    slug = models.SlugField(max_length=63)
    name = models.CharField(max_length=200, blank=True)
    is_enabled = models.BooleanField(default=True)
    actions: "models.JSONField[Any, Any]" = models.JSONField(
        default=dict, help_text='What becomes of each kind: {"email": "tokenize", "custom:staff": "block"}.'
    )
    custom_patterns: "models.JSONField[Any, Any]" = models.JSONField(
        default=list, help_text='[{"name", "pattern"}] in RE2 syntax; their kinds are "custom:<name>".'
    )
    detects_names = models.BooleanField(default=False)
    phone_regions: "models.JSONField[Any, Any]" = models.JSONField(
        default=list, help_text="ISO countries whose national phone numbers are known without a word nearby."
    )
    vault_days = models.PositiveSmallIntegerField(
        default=0, help_text="How long what a token stands for can be revealed; 0: it is never kept."
    )
    guardrails: "models.JSONField[Any, Any]" = models.JSONField(
        default=list, help_text="In the order in which they judge; see gateway.privacy.guardrails."
    )
    sealed_webhook_secrets = models.BinaryField(
        default=bytes, blank=True, help_text="What guardrails of the kind webhook are signed with."
    )

    objects = OwnedQuerySet["PrivacyProfile"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "slug"), name="privacy_profile_once", nulls_distinct=False
            ),
            models.CheckConstraint(
                condition=models.Q(vault_days__lte=MAX_VAULT_DAYS), name="privacy_vault_days_in_range"
            ),
        )

    def __str__(self) -> str:
        return self.slug

    @property
    def sealed_in(self) -> str:
        """What the signing secrets are bound to."""
        return f"gateway_privacyprofile|{self.id}|sealed_webhook_secrets"

    def put_webhook_secrets(self, text: str) -> None:
        """Seal them (`tenants.webhooks.dump`); the caller saves."""
        self.sealed_webhook_secrets = encryption.seal(text, tenant=self.tenant, context=self.sealed_in)

    def webhook_secrets(self) -> str:
        """What `put_webhook_secrets` sealed. Raises SealBrokenError."""
        return encryption.unseal(
            bytes(self.sealed_webhook_secrets), tenant=self.tenant, context=self.sealed_in
        )


class PrivacyBinding(Stamped):
    """Whose calls a profile rules: a tenant's or (the operator's profile alone) everybody's; all of them, or those
    of one feature or policy. `tenant` is who made it, and may take it away; `bound_tenant` null is everybody."""

    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="privacy_bindings"
    )
    profile = models.ForeignKey(PrivacyProfile, on_delete=models.PROTECT, related_name="bindings")
    bound_tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="privacy_rules"
    )
    feature = models.CharField(max_length=100, blank=True)
    policy = models.SlugField(max_length=63, blank=True)

    objects = OwnedQuerySet["PrivacyBinding"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("profile", "bound_tenant", "feature", "policy"),
                name="privacy_binding_once",
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                condition=models.Q(tenant__isnull=True) | models.Q(bound_tenant=models.F("tenant")),
                name="privacy_binding_of_a_tenant_is_its_own",
            ),
            models.CheckConstraint(
                condition=models.Q(feature="") | models.Q(policy=""), name="privacy_binding_feature_or_policy"
            ),
        )

    def __str__(self) -> str:
        whom = str(self.bound_tenant or "everybody")
        what = self.feature or (f"policy:{self.policy}" if self.policy else "")
        return f"{self.profile} for {whom}{f', {what}' if what else ''}"
