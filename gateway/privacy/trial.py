"""A profile tried out on a text, by itself: what it finds, what would be sent, what its guardrails say.

Nothing is sent, nothing is kept, and no webhook is asked.
"""

from typing import Any, Final

from gateway.privacy.kinds import Action
from gateway.privacy.models import PrivacyProfile
from gateway.privacy.snapshot import entry_of, joined
from gateway.privacy.tokens import Vault
from gateway.privacy.vault import key_of
from gateway.privacy.walk import redact_text
from tenants.errors import ApiError

MAX_TEXT: Final = 20_000


def tried(profile: PrivacyProfile, text: str) -> dict[str, Any]:
    """What the profile makes of the text. Raises ApiError invalid_request when it cannot be used here."""
    try:
        rules = joined((entry_of(profile),))
    except ValueError as error:
        raise ApiError("invalid_request", f"The profile cannot be used: {error}.") from error
    made = redact_text(text, rules.finder, rules.rules, Vault(key_of(profile.tenant)))
    sent = None if made.blocked else str(made.body)
    return {
        "findings": [
            {
                "start": each.start,
                "end": each.end,
                "kind": each.kind,
                "action": rules.rules.actions.get(each.kind, Action.ALLOW),
            }
            for each in rules.finder.find(text)
        ],
        "sent": sent,
        "blocked": made.blocked,
        "guardrails": [
            {
                "guardrail": each.rule.name,
                "stage": each.rule.stage,
                "wrong": None if each.rule.judge is None else each.rule.judge([sent]),
            }
            for each in (*rules.before, *rules.after)
            if sent is not None
        ],
    }
