"""The console's home pages and frame. Views read input, make one call and shape the answer; no rule lives here."""

from typing import Any

from django.http import HttpRequest


def navigation(request: HttpRequest) -> dict[str, Any]:
    """Template context of every page: what the sidebar shows this user."""
    return {"navigation": ()}
