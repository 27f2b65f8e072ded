"""audit_anchor: print the end of every audit chain, one signed line each, to be kept outside the database."""

from typing import Any

from django.core.management.base import BaseCommand

from tenants.trail import proof


class Command(BaseCommand):
    """Append its output to a file, a ticket or a notary service, daily; `verify_audit --anchors` reads it."""

    help = "Print anchors: the head of every audit chain as JSON lines."

    def handle(self, *args: Any, **options: Any) -> None:
        """Changes nothing."""
        for anchor in proof.anchors_now():
            self.stdout.write(proof.line_of(anchor))
