"""What the proof of the books says about one rule. Each package that keeps books adds its own."""

from dataclasses import dataclass

SHOWN = 5  # exceptions spelled out per check


@dataclass(frozen=True, slots=True)
class Check:
    """One rule: what the ledger says (`expected`) and what was found. A warning leaves the proof ok."""

    name: str
    ok: bool
    detail: str
    expected: str
    found: str
    is_warning: bool = False


def exceptions(name: str, wrong: list[str], seen: int, what: str) -> Check:
    """A rule over `seen` things (`what` they are) that nothing may break."""
    return Check(
        name=name,
        ok=not wrong,
        detail="; ".join(wrong[:SHOWN]) or f"{seen} {what}",
        expected="0 exceptions",
        found=f"{len(wrong)} exceptions",
    )
