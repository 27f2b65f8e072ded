"""When an alert fires, and what is said where it is quiet or noisy. Pure: instants and numbers are arguments.

Thresholds fire at or beyond, ascending, once per window (R19b); what is merely unknown never fires.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from statistics import median
from zoneinfo import ZoneInfo

from billing.budgets.evaluate import due

DAY = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)

# ------------------------------------------------------------------ thresholds of budgets


@dataclass(frozen=True, slots=True)
class Fired:
    """A threshold that fired in this window, and the limit it fired under (smallest units)."""

    threshold: Decimal
    limit: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Thresholds to fire now, ascending, and those that may fire again."""

    fire: tuple[Decimal, ...] = ()
    rearm: tuple[Decimal, ...] = ()


def decide(
    *,
    value: int,
    limit: int,
    thresholds: Iterable[Decimal],
    is_percent: bool,
    unit: int,
    fired: Collection[Fired],
) -> Decision:
    """Judge `value` (spent, or forecast) of a window against thresholds in percent of `limit` or absolute.

    `value` and `limit` are in the smallest units, `unit` of which make one of the budget's (10**12 for
    money, 1 for tokens and requests). A threshold re-arms when the limit was raised and `value` lies below
    it again; a correction of the books alone re-arms nothing. Nothing used fires nothing, even of a limit
    of nothing.
    """
    if value <= 0:
        return Decision()
    known = {each.threshold for each in fired}
    if is_percent:
        reached = [*map(Decimal, due(limit=limit, spent=value, thresholds=map(int, thresholds), fired=()))]
        rearm = tuple(
            sorted(
                each.threshold
                for each in fired
                if limit > each.limit and value * 100 < limit * Fraction(each.threshold)
            )
        )
    else:
        reached = sorted(each for each in set(thresholds) if value >= Fraction(each) * unit)
        rearm = ()
    return Decision(fire=tuple(each for each in reached if each not in known), rearm=rearm)


# ------------------------------------------------------------------ forecasts

FORECAST_AFTER = timedelta(days=3)
CONFIRM_AFTER = timedelta(minutes=30)
CONFIRM_WITHIN = timedelta(hours=3)


def may_forecast(*, start: datetime, end: datetime | None, now: datetime) -> bool:
    """Whether enough of the window has passed to say how it will end, and there is an end."""
    return end is not None and start + FORECAST_AFTER <= now < end


def run_rate(*, value: int, start: datetime, end: datetime, now: datetime) -> int | None:
    """What a window will hold at its end if it goes on as it has; None before three days have passed.

    The straight line of BILLING §5; three days as in Oracle's budgets.
    """
    if not may_forecast(start=start, end=end, now=now):
        return None
    return value * ((end - start) // _MICROSECOND) // ((now - start) // _MICROSECOND)


def is_confirmed(*, seen_at: datetime | None, now: datetime) -> bool:
    """Whether an evaluation before this one, and not just now, saw the same."""
    return seen_at is not None and CONFIRM_AFTER <= now - seen_at <= CONFIRM_WITHIN


# ------------------------------------------------------------------ shares and times


def beyond(*, value: float, thresholds: Iterable[Decimal], is_floor: bool = False) -> tuple[Decimal, ...]:
    """The thresholds that `value` has reached, mildest first; with `is_floor`, has fallen below."""
    if is_floor:
        return tuple(sorted((t for t in set(thresholds) if value < t), reverse=True))
    return tuple(sorted(t for t in set(thresholds) if value >= t))


def margin_percent(*, price: int, cost: int) -> float | None:
    """Contribution margin in percent of the price; None, not zero, where nothing was sold."""
    return None if price <= 0 else 100 * float(Fraction(price - cost, price))


def error_percent(*, success_rate: float | None, requests: int, min_requests: int) -> float | None:
    """Failed calls in percent of those that ended well or badly; None of fewer than `min_requests`."""
    if success_rate is None or requests < min_requests:
        return None
    return 100 * (1 - success_rate)


def severity_of(threshold: Decimal, *, is_hard: bool) -> str:
    """How grave a budget's own threshold (percent) is: critical where calls are refused from there on."""
    if threshold >= 100:
        return "critical" if is_hard else "warning"
    return "warning" if threshold >= 80 else "info"


# ------------------------------------------------------------------ anomalies (BILLING §5)

PROFILE_DAYS = 56
LEVEL_DAYS = 14
RESIDUAL_DAYS = 28
MIN_HISTORY_DAYS = 21
ANOMALY_Z = 5.0
_MIN_SPREAD = 0.05  # a series without any noise must not make every cent an anomaly
_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation, for a normal distribution


@dataclass(frozen=True, slots=True)
class Judgement:
    """A day beside what was to be expected of it, in the series' own unit; `z` is signed."""

    value: float
    expected: float
    z: float


def judge(values: Sequence[float], *, weekday: int, floor: float) -> Judgement | None:
    """Judge the last day of a series, oldest first; `weekday` is that day's (0 is Monday).

    value / (weekday profile * median level of 14 days) - 1, in units of the spread of the last 28 days'
    residuals. `floor` (above zero) is the least that is expected: below it nothing is worth an alert. None
    with less than three weeks of history.
    """
    history = values[:-1]
    if len(history) < MIN_HISTORY_DAYS:
        return None
    day_of = [(weekday - (len(values) - 1 - i)) % 7 for i in range(len(values))]
    profile = _weekday_profile(history, day_of)
    levels = [value / profile[day] for value, day in zip(history, day_of, strict=False)]

    def expected_of(i: int) -> float:
        return max(median(levels[max(0, i - LEVEL_DAYS) : i]) * profile[day_of[i]], floor)

    first = max(LEVEL_DAYS // 2, len(history) - RESIDUAL_DAYS)
    residuals = [history[i] / expected_of(i) - 1 for i in range(first, len(history))]
    middle = median(residuals)
    spread = max(_TO_SIGMA * median(abs(each - middle) for each in residuals), _MIN_SPREAD)
    expected = expected_of(len(history))
    return Judgement(value=values[-1], expected=expected, z=(values[-1] / expected - 1) / spread)


def _weekday_profile(history: Sequence[float], day_of: Sequence[int]) -> Mapping[int, float]:
    """Each weekday's typical share of its week's median; 1 where too little is known."""
    ratios: dict[int, list[float]] = {day: [] for day in range(7)}
    for i in range(max(3, len(history) - PROFILE_DAYS), len(history) - 3):
        level = median(history[i - 3 : i + 4])
        if level > 0:
            ratios[day_of[i]].append(history[i] / level)
    shares = {day: median(each) if len(each) > 1 else 1.0 for day, each in ratios.items()}
    return {day: max(share, 0.05) for day, share in shares.items()}


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a difference one member of a dimension explains, in percent."""

    dimension: str
    member: str
    percent: float


def attribute(
    dimension: str, *, on_day: Mapping[str, float], before: Mapping[str, float], difference: float
) -> Share | None:
    """The member that explains most of `difference`; None where none moves that way.

    `on_day` is each member's value on the day, `before` its usual one.
    """
    moves = {member: on_day.get(member, 0.0) - before.get(member, 0.0) for member in {*on_day, *before}}
    shares = {member: move / difference for member, move in moves.items()} if difference else {}
    if not shares:
        return None
    member = max(sorted(shares), key=shares.__getitem__)
    return Share(dimension, member, round(100 * shares[member], 1)) if shares[member] > 0 else None


# ------------------------------------------------------------------ noise


def quiet_until(
    now: datetime, *, zone: str, quiet_from: time | None, quiet_to: time | None
) -> datetime | None:
    """The end of the quiet hours that `now` lies in, in UTC; None outside of them. They may span midnight."""
    if quiet_from is None or quiet_to is None or quiet_from == quiet_to:
        return None
    local = now.astimezone(ZoneInfo(zone))
    clock = local.time().replace(tzinfo=None)
    if quiet_from < quiet_to:
        is_quiet, day = quiet_from <= clock < quiet_to, local.date()
    else:
        is_quiet = clock >= quiet_from or clock < quiet_to
        day = local.date() + (DAY if clock >= quiet_from else timedelta())
    return datetime.combine(day, quiet_to, local.tzinfo).astimezone(UTC) if is_quiet else None


DIGEST_AFTER = 5
DIGEST_SPAN = timedelta(minutes=10)


def digest_at(told_at: Collection[datetime], *, waiting: int, now: datetime) -> tuple[int, datetime | None]:
    """How many of `waiting` messages may go singly, and when the digest of the others is due.

    At most five go in ten minutes; `told_at` are the instants of those gone already. The digest is due ten
    minutes after the first of the five.
    """
    recent = sorted(at for at in told_at if now - DIGEST_SPAN < at <= now)
    singly = max(0, min(waiting, DIGEST_AFTER - len(recent)))
    if singly == waiting:
        return waiting, None
    return singly, (recent[0] if recent else now) + DIGEST_SPAN
