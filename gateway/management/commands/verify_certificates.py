"""Prove the deletion certificates: every chain, and what the audit trail says of them."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway.content.certificates import verify
from gateway.content.models import DeletionCertificate


class Command(BaseCommand):
    help = "Walk the hash chains of the deletion certificates and report what does not hold."

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError where a chain does not hold."""
        if errors := verify():
            raise CommandError("\n".join(errors))
        self.stdout.write(f"{DeletionCertificate.objects.count()} certificates hold.")
