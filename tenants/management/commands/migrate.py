"""migrate: Django's own, and then the policies of row-level security brought up to date."""

from typing import Any

from django.core.management.commands import migrate
from django.db import connections

from tenants import isolation


class Command(migrate.Command):
    """So that no table of a tenant can ever be made without a policy, whoever made it and how."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs the migrations; then `isolation.build`, unless nothing was to be changed."""
        super().handle(*args, **options)
        if not (options["plan"] or options["check_unapplied"]):
            isolation.build(connections[options["database"]])
