"""Exchange rates, frozen per UTC day (R23): a call is converted at its day's rate, whatever comes later."""

from django.db import models

from tenants.models import Stamped


class FxRate(Stamped):
    """One unit of `base` is `rate` units of `quote` on `day`. Only ever added, never changed."""

    base = models.CharField(max_length=3)
    quote = models.CharField(max_length=3)
    day = models.DateField()
    rate = models.DecimalField(max_digits=24, decimal_places=12)
    source = models.CharField(max_length=100, blank=True)

    class Meta:
        ordering = ("-day", "base", "quote")
        constraints = (
            models.UniqueConstraint(fields=("base", "quote", "day"), name="fx_rate_one_per_day"),
            models.CheckConstraint(condition=models.Q(rate__gt=0), name="fx_rate_positive"),
        )

    def __str__(self) -> str:
        return f"{self.day} {self.base}/{self.quote} {self.rate}"
