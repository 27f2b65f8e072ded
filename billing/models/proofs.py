"""What the hourly proof of the books found, kept so that nobody has to trust that it ran."""

from django.db import models

from tenants.ids import uuid7


class LedgerProof(models.Model):
    """One run of `verify` over [since, until); both empty: the whole ledger. Never changed once written."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    at = models.DateTimeField()
    ok = models.BooleanField()
    is_whole = models.BooleanField()
    since = models.DateTimeField(null=True)
    until = models.DateTimeField(null=True)
    checks = models.JSONField()  # [{name, ok, detail, expected, found, is_warning}]
    duration_ms = models.PositiveIntegerField()

    objects = models.Manager["LedgerProof"]()

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=("-at",), name="ledger_proof_at"),)

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} {'holds' if self.ok else 'BROKEN'}"
