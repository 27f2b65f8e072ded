"""verify_audit: recompute the audit chains and hold them against anchors kept outside the database."""

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tenants.audit import OPERATOR_CHAIN
from tenants.models import Tenant
from tenants.trail import proof


class Command(BaseCommand):
    """Exits with 1 when a chain does not hold, or cannot be proved by the anchors given."""

    help = "Prove that no audit event was altered, dropped or reordered."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", help="slug; all chains when left out")
        parser.add_argument("--operator", action="store_true", help="the operator's own chain alone")
        parser.add_argument("--since", help="instant or day; what is older is taken as it stands")
        parser.add_argument("--anchors", help="file that audit_anchor wrote; - reads standard input")
        parser.add_argument("--json", action="store_true", help="one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError for an unknown tenant, a bad instant or anchor, or a broken chain."""
        chain = self._chain(options["tenant"], is_operators=options["operator"])
        anchors = self._anchors(options["anchors"]) if options["anchors"] else []
        since = self._instant(options["since"]) if options["since"] else None
        if chain is not None:
            anchors = [anchor for anchor in anchors if anchor.chain == chain]
        if options["anchors"] and not anchors:
            raise CommandError("the file holds no anchor of these chains")
        found = proof.verify(chain, since=since, anchors=anchors)
        if options["json"]:
            self.stdout.write(json.dumps({"ok": found.ok, "chains": [_plain(each) for each in found.chains]}))
        else:
            for each in found.chains:
                verdict = f"BROKEN: {each.error}" if each.error else "ok"
                met = f", {each.anchors} anchors met" if anchors else ""
                begin = f" after event {each.after}" if each.after else ""
                self.stdout.write(
                    f"{each.chain} {each.events} events{begin}, head {each.head.hex()}{met} {verdict}"
                )
        if not found.ok:
            raise CommandError("the audit trail does not hold")

    def _chain(self, slug: str | None, *, is_operators: bool) -> UUID | None:
        if is_operators:
            return OPERATOR_CHAIN
        if not slug:
            return None
        chain = Tenant.objects.filter(slug=slug).values_list("id", flat=True).first()
        if chain is None:
            raise CommandError(f"there is no tenant {slug!r}")
        return chain

    def _anchors(self, path: str) -> list[proof.Anchor]:
        try:
            lines: Iterable[str] = (
                sys.stdin if path == "-" else Path(path).read_text(encoding="utf-8").splitlines()
            )
            return proof.anchors_of(lines)
        except (OSError, UnicodeError) as error:
            raise CommandError(f"{path} cannot be read: {error}") from error
        except proof.AnchorError as error:
            raise CommandError(f"{path}: {error}") from error

    def _instant(self, text: str) -> datetime:
        try:
            instant = datetime.fromisoformat(text)
        except ValueError as error:
            raise CommandError(f"{text!r} is no instant such as 2026-01-31T12:00:00Z") from error
        return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _plain(chain: proof.ChainProof) -> dict[str, Any]:
    return {
        "chain": str(chain.chain),
        "ok": not chain.error,
        "events": chain.events,
        "after": chain.after,
        "sequence": chain.sequence,
        "head": chain.head.hex(),
        "anchors": chain.anchors,
        "error": chain.error,
    }
