"""Loads the vendored price book into the database and says what changed. Safe to run at every start."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from routing.catalog.sync import RateChange, load_catalogue


class Command(BaseCommand):
    help = "Load the vendored model and price catalogue; changed prices open new rates."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only print the difference")

    def handle(self, *args: Any, dry_run: bool, verbosity: int, **options: Any) -> None:
        diff = load_catalogue(now=timezone.now(), is_dry_run=dry_run)
        # A first load is thousands of lines that nobody reads.
        changed = [change for change in diff.rates if change.old is not None or verbosity > 1]
        for change in changed:
            self.stdout.write(line_of(change))
        for key in diff.kept if verbosity > 1 else ():
            self.stdout.write(f"= {' '.join(str(part) for part in key if part)} (kept: not a catalogue rate)")
        opened = sum(change.new is not None for change in diff.rates)
        closed = sum(change.old is not None for change in diff.rates)
        self.stdout.write(
            f"{'would be: ' if dry_run else ''}{len(diff.models)} new models, {opened} rates opened, "
            f"{closed} closed, {len(diff.kept)} kept"
        )


def line_of(change: RateChange) -> str:
    """One line of the diff: + new, - gone, ~ changed."""
    mark = "+" if change.old is None else "-" if change.new is None else "~"
    prices = " -> ".join(f"{price:f}" for price in (change.old, change.new) if price is not None)
    return f"{mark} {' '.join(str(part) for part in change.key if part)}: {prices}"
