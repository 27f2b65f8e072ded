"""permissions_doc: write docs/permissions.md anew from the code's own declarations."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from gateway.permissions import document


class Command(BaseCommand):
    """Run it after adding a route, a scope or a role."""

    help = "Write docs/permissions.md from the declared scopes."

    def handle(self, *args: Any, **options: Any) -> None:
        """Overwrites the page."""
        path = settings.BASE_DIR / "docs" / "permissions.md"
        path.write_text(document(), encoding="utf-8")
        self.stdout.write(f"wrote {path.relative_to(settings.BASE_DIR)}")
