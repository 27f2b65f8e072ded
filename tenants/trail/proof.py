"""The proof that no audit event was altered, dropped, doubled or reordered: chains, checkpoints, anchors.

Must never repair what it finds. A chain proves itself against everybody but somebody who rewrites the whole
table; anchors kept elsewhere (`audit_anchor`) prove it against them too.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from django.core.signing import BadSignature, Signer
from django.db import models
from django.utils import timezone

from tenants.audit import hash_of
from tenants.models import AuditCheckpoint, AuditEvent, AuditHead

PRUNE: Final = "audit.prune"
"""The event that witnesses a checkpoint from inside the chain."""

_SIGNER: Final = Signer(salt="tollhouse.audit.anchor")


class AnchorError(Exception):
    """A line that is no anchor, or one that this installation has not signed as it stands."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """What one chain's end was at a moment, kept where nobody who can change the database can."""

    chain: UUID
    sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class ChainProof:
    """What the walk over one chain found. `error` is empty when it holds.

    `events` were recomputed, the first of them after number `after`; the last is `sequence` with the hash
    `head`. `anchors` of those given were met.
    """

    chain: UUID
    events: int
    after: int
    sequence: int
    head: bytes
    anchors: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """The walk over all chains asked for."""

    chains: tuple[ChainProof, ...]

    @property
    def ok(self) -> bool:
        return not any(chain.error for chain in self.chains)


def verify(
    chain: UUID | None = None, *, since: datetime | None = None, anchors: Sequence[Anchor] = ()
) -> Proof:
    """Recompute one chain, or all of them and those that only anchors know.

    `since` takes what was written before it as it stands. Events beyond a head, below a checkpoint, and heads
    without events are errors. May run while others write: a chain is walked up to the head read first.
    """
    heads = AuditHead.objects.order_by().values_list("chain", flat=True)
    written = AuditEvent.objects.order_by().values_list("chain", flat=True).distinct()
    anchored: dict[UUID, list[Anchor]] = {}
    for anchor in anchors:
        anchored.setdefault(anchor.chain, []).append(anchor)
    known = sorted({*heads, *written, *anchored}) if chain is None else [chain]
    return Proof(tuple(_walk(each, since, anchored.get(each, ())) for each in known))


def _walk(chain: UUID, since: datetime | None, anchors: Sequence[Anchor]) -> ChainProof:
    events = AuditEvent.objects.filter(chain=chain)
    head = _head(chain)
    checkpoint = latest_checkpoint(chain)
    after, previous = (checkpoint.sequence, bytes(checkpoint.hash)) if checkpoint else (0, bytes(32))
    faults = _checkpoint_faults(chain, checkpoint)
    if since is not None:
        begin = events.filter(at__lt=since, sequence__gt=after).order_by("-sequence").first()
        if begin is not None:
            after, previous = begin.sequence, bytes(begin.hash)
    start, count, sequence = after, 0, after
    walked = events.filter(sequence__gt=after, sequence__lte=head.sequence).order_by("sequence", "id")
    for event in walked.iterator(chunk_size=1000):
        if event.sequence == sequence:
            faults.append(f"event {sequence} stands twice")
        elif event.sequence != sequence + 1:
            faults.append(f"event {sequence + 1} is missing")
        elif bytes(event.previous_hash) != previous:
            faults.append(f"event {event.sequence} does not follow event {sequence}")
        if hash_of(event) != bytes(event.hash):
            faults.append(f"event {event.sequence} was altered")
        previous, sequence, count = bytes(event.hash), event.sequence, count + 1
        if faults:
            break  # what comes after the first break proves nothing
    if not faults and (head.sequence != sequence or bytes(head.hash) != previous):
        faults.append(f"the head says event {head.sequence}, the chain ends at event {sequence}")
    last = events.aggregate(last=models.Max("sequence"))["last"] or 0
    if not faults and last > _head(chain).sequence:  # read after `last`: what was added meanwhile is below it
        faults.append(f"event {last} lies beyond the head")
    met, anchor_faults = _meet(chain, anchors)
    faults += anchor_faults
    return ChainProof(
        chain=chain,
        events=count,
        after=start,
        sequence=sequence,
        head=previous,
        anchors=met,
        error=faults[0] if faults else "",
    )


def _head(chain: UUID) -> AuditHead:
    return AuditHead.objects.filter(chain=chain).first() or AuditHead(chain=chain)


# ------------------------------------------------------------------ checkpoints


def latest_checkpoint(chain: UUID) -> AuditCheckpoint | None:
    """Where the chain begins; None: at its first event."""
    return AuditCheckpoint.objects.filter(chain=chain).order_by("-sequence").first()


def certificate_of(checkpoint: AuditCheckpoint, previous: bytes) -> bytes:
    """SHA-256 over what was removed, why, and the certificate before: what an auditor is shown."""
    content = [
        str(checkpoint.chain),
        checkpoint.sequence,
        bytes(checkpoint.hash).hex(),
        checkpoint.count,
        checkpoint.first_at.astimezone(UTC).isoformat(),
        checkpoint.last_at.astimezone(UTC).isoformat(),
        checkpoint.kept_days,
        checkpoint.removed_at.astimezone(UTC).isoformat(),
        previous.hex(),
    ]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).digest()


def _checkpoint_faults(chain: UUID, latest: AuditCheckpoint | None) -> list[str]:
    """A checkpoint holds when its certificate does and an event of the chain says the same of it."""
    if latest is None:
        return []
    faults, previous, removed = [], bytes(32), 0
    for row in AuditCheckpoint.objects.filter(chain=chain).order_by("sequence"):
        removed += row.count
        if certificate_of(row, previous) != bytes(row.certificate) or row.sequence != removed:
            faults.append(f"the checkpoint at event {row.sequence} was altered")
        previous = bytes(row.certificate)
    events = AuditEvent.objects.filter(chain=chain)
    witness = events.filter(sequence__gt=latest.sequence, action=PRUNE, object_id=str(latest.pk)).first()
    if witness is None or (witness.after or {}).get("certificate") != bytes(latest.certificate).hex():
        faults.append(f"no event of the chain bears witness to the checkpoint at event {latest.sequence}")
    if events.filter(sequence__lte=latest.sequence).exists():
        faults.append(f"events lie below the checkpoint at event {latest.sequence}")
    return faults


# ------------------------------------------------------------------ anchors


def anchors_now() -> list[Anchor]:
    """The end of every chain, to be kept outside this database."""
    return [
        Anchor(head.chain, head.sequence, bytes(head.hash))
        for head in AuditHead.objects.filter(sequence__gt=0).order_by("chain")
    ]


def line_of(anchor: Anchor) -> str:
    """An anchor as one line of JSON, signed, so that a line altered where it is kept is known for one."""
    fields = {
        "chain": str(anchor.chain),
        "sequence": anchor.sequence,
        "hash": anchor.hash.hex(),
        "at": timezone.now().astimezone(UTC).isoformat(timespec="seconds"),
    }
    return json.dumps({**fields, "signature": _SIGNER.signature(_signed(fields))})


def anchors_of(lines: Iterable[str]) -> list[Anchor]:
    """Lines as `line_of` made them; blank ones are skipped. Raises AnchorError with the line's number."""
    return [_anchor(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _anchor(number: int, line: str) -> Anchor:
    try:
        fields = json.loads(line)
        anchor = Anchor(UUID(fields["chain"]), int(fields["sequence"]), bytes.fromhex(fields["hash"]))
        _SIGNER.unsign(f"{_signed(fields)}{_SIGNER.sep}{fields['signature']}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnchorError(f"line {number} is no anchor") from error
    except BadSignature as error:
        raise AnchorError(f"line {number} is not as it was signed here") from error
    return anchor


def _signed(fields: Mapping[str, object]) -> str:
    return " ".join(str(fields[name]) for name in ("chain", "sequence", "hash", "at"))


def _meet(chain: UUID, anchors: Sequence[Anchor]) -> tuple[int, list[str]]:
    """How many anchors the chain still has, and what is wrong with those it must have and has not.

    Of an event that retention has removed only the certificate is left: an anchor of it proves nothing now,
    unless it is the checkpoint's own; a chain all of whose anchors are such is not proved by them.
    """
    if not anchors:
        return 0, []
    checkpoints = dict(AuditCheckpoint.objects.filter(chain=chain).values_list("sequence", "hash"))
    gone_to = max(checkpoints, default=0)
    wanted = {anchor.sequence for anchor in anchors}
    events = AuditEvent.objects.filter(chain=chain, sequence__in=wanted)
    held = dict(events.values_list("sequence", "hash"))
    met, faults = 0, []
    for anchor in sorted(anchors, key=lambda each: each.sequence):
        found = held.get(anchor.sequence, checkpoints.get(anchor.sequence))
        if found is None and anchor.sequence <= gone_to:
            continue
        if found is None:
            faults.append(f"event {anchor.sequence}, which is anchored, is missing")
        elif bytes(found) != anchor.hash:
            faults.append(f"event {anchor.sequence} is not the one that was anchored")
        else:
            met += 1
    if not met and not faults:
        faults.append(f"all anchors lie below the checkpoint at event {gone_to}: keep newer ones")
    return met, faults
