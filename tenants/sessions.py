"""A person's own sign-ins on other devices: seen, and ended at once. Must never end anybody else's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from allauth.core.internal.sessionkit import get_session_user
from allauth.usersessions.models import UserSession
from django.contrib.sessions.backends.cached_db import SessionStore
from django.core.cache import cache
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone

from tenants import audit
from tenants.errors import ApiError
from tenants.models import User
from tenants.principal import Principal

SEEN_EVERY_S: Final = 60
_BROWSERS: Final = (
    (r"Edg(?:e|A|iOS)?/", "Edge"),
    (r"OPR/|Opera", "Opera"),
    (r"Firefox/|FxiOS/", "Firefox"),
    (r"Chrome/|CriOS/|Chromium/", "Chrome"),
    (r"Safari/", "Safari"),
)
_SYSTEMS: Final = (
    (r"Windows", "Windows"),
    (r"iPhone|iPad", "iOS"),
    (r"Android", "Android"),
    (r"Mac OS X|Macintosh", "macOS"),
    (r"CrOS", "ChromeOS"),
    (r"Linux|X11", "Linux"),
)


@dataclass(frozen=True, slots=True)
class SessionShown:
    """One sign-in as its owner sees it."""

    id: int
    device: str
    user_agent: str
    ip: str
    created_at: datetime
    last_seen_at: datetime
    is_current: bool


def note_alive(request: HttpRequest) -> None:
    """Remember when and from where the session was last used, at most once in `SEEN_EVERY_S`."""
    key = request.session.session_key
    if key and cache.add(f"session-seen:{key}", 1, timeout=SEEN_EVERY_S):
        UserSession.objects.filter(session_key=key).update(
            last_seen_at=timezone.now(), **({"ip": ip} if (ip := audit.client_ip(request)) else {})
        )


def list_sessions(*, user: User, current_key: str | None) -> Sequence[SessionShown]:
    """The person's living sessions, this one first, then by last use. (A sign-in forgets the dead ones.)"""
    shown = [
        SessionShown(
            id=row.pk,
            device=device_of(row.user_agent),
            user_agent=row.user_agent,
            ip=row.ip,
            created_at=row.created_at,
            last_seen_at=row.last_seen_at,
            is_current=row.session_key == current_key,
        )
        for row in UserSession.objects.filter(user_id=user.pk)
        if get_session_user(SessionStore(row.session_key)) is not None
    ]
    return sorted(shown, key=lambda each: (each.is_current, each.last_seen_at), reverse=True)


def end_session(*, user: User, session_id: int, current_key: str | None, actor: Principal) -> None:
    """End one of the person's other sessions: its next request is a stranger's. Raises ApiError not_found."""
    row = UserSession.objects.filter(user_id=user.pk, pk=session_id).exclude(session_key=current_key).first()
    if row is None:
        raise ApiError("not_found", "There is no such session.")
    _end([row], user, actor)


def end_other_sessions(*, user: User, current_key: str | None, actor: Principal) -> int:
    """End all of the person's sessions but this one, and say how many."""
    rows = list(UserSession.objects.filter(user_id=user.pk).exclude(session_key=current_key))
    _end(rows, user, actor)
    return len(rows)


def _end(rows: Sequence[UserSession], user: User, actor: Principal) -> None:
    with transaction.atomic():
        for row in rows:
            audit.record(
                principal=actor,
                action="user.session_revoke",
                object_type="user",
                object_id=user.pk,
                tenant=None,
                before={"ip": row.ip, "device": device_of(row.user_agent)},
            )
            row.end()


def device_of(user_agent: str) -> str:
    """Browser and system in words, as far as the header says so (it is the browser's own claim)."""
    browser = next((name for pattern, name in _BROWSERS if re.search(pattern, user_agent)), "")
    system = next((name for pattern, name in _SYSTEMS if re.search(pattern, user_agent)), "")
    if browser and system:
        return f"{browser} on {system}"
    return browser or system or "Unknown device"
