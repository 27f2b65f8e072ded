"""verify_ledger: prove the ledger against its rollups and itself, one line per check."""

from argparse import ArgumentTypeError
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.usage.verify import Check, verify


class Command(BaseCommand):
    """Exits with 1 when a check fails; a warning alone does not."""

    help = "Prove that the ledger, its rollups and its own rules agree to the last digit."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--since", type=_instant, help="RFC 3339, UTC unless it names a zone")
        parser.add_argument("--until", type=_instant, help="RFC 3339, exclusive")

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError when the ledger does not hold."""
        proof = verify(since=options["since"], until=options["until"])
        for check in proof.checks:
            self.stdout.write(
                f"{_verdict(check)}  {check.name}: expected {check.expected}, found {check.found}"
                f" ({check.detail})"
            )
        if not proof.ok:
            raise CommandError("the ledger does not hold")


def _verdict(check: Check) -> str:
    if check.ok:
        return "ok     "
    return "WARNING" if check.is_warning else "FAILED "


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no RFC 3339 instant") from error
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
