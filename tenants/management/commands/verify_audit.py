"""verify_audit: recompute the audit chains and print each head, to be kept outside the database."""

from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tenants import audit
from tenants.models import Tenant


class Command(BaseCommand):
    """Exits with 1 when a chain does not hold."""

    help = "Prove that no audit event was altered, dropped or reordered."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", help="slug; all chains when left out")

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError for an unknown tenant or a broken chain."""
        chain: UUID | None = None
        if options["tenant"]:
            chain = Tenant.objects.filter(slug=options["tenant"]).values_list("id", flat=True).first()
            if chain is None:
                raise CommandError(f"there is no tenant {options['tenant']!r}")
        proof = audit.verify(chain)
        for each in proof.chains:
            verdict = f"BROKEN: {each.error}" if each.error else "ok"
            self.stdout.write(f"{each.chain} {each.events} events, head {each.head.hex()} {verdict}")
        if not proof.ok:
            raise CommandError("the audit trail does not hold")
