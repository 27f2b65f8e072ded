"""What every row of the house has."""

from django.db import models

from tenants.ids import uuid7


class Stamped(models.Model):
    """A row with a time-sorted id and the two usual instants."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True
