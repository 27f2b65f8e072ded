"""rotate_master_key: wrap every data key with the newest master key. May be stopped and run again."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tenants.encryption import SealBrokenError, rewrap_data_keys


class Command(BaseCommand):
    """Put the new key first in TOLLHOUSE_MASTER_KEYS, keep the old one behind it, restart, then run this."""

    help = "Rewrap data keys with the newest master key; says when the old ones may be retired."

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError, after which nothing is half done: run it again."""
        count, remaining = 0, {}
        try:
            for progress in rewrap_data_keys():
                count, remaining = count + progress.count, dict(progress.remaining)
                self.stdout.write(f"{count} rewrapped, {sum(remaining.values())} left")
        except SealBrokenError as error:
            raise CommandError(str(error)) from error
        if remaining:
            raise CommandError(
                f"rows left under {', '.join(sorted(remaining))} (being written now): run again"
            )
        self.stdout.write("Older master keys have no rows left and may leave TOLLHOUSE_MASTER_KEYS.")
