"""Translates a case of billing_examples.json into production calls, and their answer into the case's shape.

It must hold no arithmetic of its own: what it computes is only how the case spells its input.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from billing.budgets.evaluate import Window, allows, due, window_of
from billing.economics.forecast import month_to_date, run_rate, seasonal_naive
from billing.economics.unit import Activity, unit_economics
from billing.invoicing.credit import Credit, InvoicedLine, credit, invoice_total
from billing.invoicing.dunning import overdue_from, reminders
from billing.invoicing.numbering import CounterKey, counter_of, number_text
from billing.invoicing.totals import Discount, DocumentLine, totals_of
from billing.rating.charges import CostPlus, Graduated, Package, Percentage, Standard, Tier, UnitModel, Volume
from billing.rating.fx import convert_pico
from billing.rating.lines import (
    Line,
    PriceVersion,
    adjustment_minor,
    rate_costs,
    rate_events,
    rate_quantity,
    rate_versions,
    sum_minor,
    true_up_minor,
)
from billing.rating.money import (
    fixed_text,
    minor_digits,
    minor_text,
    pico_to_minor,
    plain_text,
    to_minor,
    to_pico,
)
from billing.rating.proration import prorate, unused_of
from billing.rating.tax import TaxRate
from billing.reconciliation.match import Day, Tolerance, reconcile
from billing.usage.amend import Entry, Sums, amend, by_local_day, standing, sums_of, take
from billing.usage.rerate import RatedEntry, UnitRate, rerate
from billing.wallets.drawdown import Grant, cap_month, draw, top_up
from routing.catalog.cost import Rate, RateCard, cost_of
from tenants.errors import ApiError

type Case = Mapping[str, Any]

CACHE_PARTS = ("cache_read", "cache_write", "cache_write_1h")
TOKENS = ("input", "output", "reasoning", *CACHE_PARTS)


def run_case(case: Case) -> dict[str, Any]:
    """The answer to one case. Raises NotImplementedError for a kind that has no translation."""
    runner = RUNNERS.get(case["kind"])
    if runner is None:
        raise NotImplementedError(case["kind"])
    return runner(case["input"])


def request_cost(given: Case) -> dict[str, Any]:
    """Quantities with decimals, such as audio seconds, are metered in their smallest part, here 10^-k."""
    counts = {name: Decimal(str(count)) for name, count in given["usage"].items()}
    parts = {_component(name): count.as_integer_ratio()[1] for name, count in counts.items()}
    card = RateCard(
        _rate(number, row, parts=parts.get(row["component"], 1)) for number, row in enumerate(given["rates"])
    )
    units = {name: int(count * parts[_component(name)]) for name, count in counts.items()}
    cost = cost_of(
        card,
        _disjoint(units, given["token_convention"]),
        occurred_at=_instant(given["occurred_at"]),
        service_tier=given.get("service_tier") or "",
    )
    return {
        "components": {name: _from_pico(pico) for name, pico in cost.components.items()},
        "cost": _from_pico(cost.total_pico),
    }


def windows(given: Case) -> dict[str, Any]:
    found = [(at, _window(given["window"], given["timezone"], _instant(at))) for at in given["instants"]]
    return {
        "windows": [
            {
                "at": at,
                "start": _text(window.start),
                "end": None if window.end is None else _text(window.end),
                "seconds": None if window.end is None else int(window.end - window.start),
            }
            for at, window in found
        ]
    }


def budget(given: Case) -> dict[str, Any]:
    """The counters are kept here as the gateway keeps them in Redis: per window, holds by reservation."""
    terms = given["budget"]
    limit = _to_pico(terms["limit"])
    spent: dict[float, int] = {}
    holds: dict[float, dict[str, int]] = {}
    fired: dict[float, list[int]] = {}
    alerts, decisions = [], []
    for event in given["events"]:
        start = _window(terms["window"], terms["timezone"], _instant(event["at"])).start
        spent.setdefault(start, 0)
        held = holds.setdefault(start, {})
        match event["type"]:
            case "reserve":
                estimate, open_holds = _to_pico(event["estimate"]), sum(held.values())
                is_allowed = allows(
                    limit=limit, spent=spent[start], held=open_holds, estimate=estimate, mode=terms["mode"]
                )
                if is_allowed:
                    held[event["id"]] = estimate
                decisions.append(
                    {
                        "id": event["id"],
                        "decision": "allow" if is_allowed else "deny",
                        "available_before": _from_pico(limit - spent[start] - open_holds),
                    }
                )
            case "spend" | "settle" | "release":
                for window_holds in holds.values():
                    window_holds.pop(event.get("id", ""), None)
                spent[start] += _to_pico(event["amount"]) if event["type"] != "release" else 0
            case unknown:
                raise NotImplementedError(unknown)
        seen = fired.setdefault(start, [])
        for threshold in due(
            limit=limit, spent=spent[start], thresholds=terms.get("thresholds") or (), fired=seen
        ):
            seen.append(threshold)
            alerts.append(
                {
                    "window_start": _text(start),
                    "threshold": threshold,
                    "at": event["at"],
                    "spent": _from_pico(spent[start]),
                }
            )
    return {
        "spent_by_window": {_text(start): _from_pico(amount) for start, amount in spent.items()},
        "alerts": alerts,
        "decisions": decisions,
    }


# ------------------------------------------------------------------ prices


def charge(given: Case) -> dict[str, Any]:
    currency, terms = given["currency"], given["charge"]
    lines = _lines(given, terms, currency)
    answer: dict[str, Any] = {
        "lines": [
            {"quantity": plain_text(line.quantity), "amount": minor_text(line.amount_minor, currency)}
            for line in lines
        ]
    }
    missing = _true_up(lines, terms, given, currency)
    answer["amount"] = minor_text(sum_minor(lines) + (missing or 0), currency)
    if missing is not None:
        answer["true_up"] = minor_text(missing, currency)
    return answer


def late_usage(given: Case) -> dict[str, Any]:
    currency, terms = given["currency"], given["charge"]
    billed, late = Decimal(given["billed_quantity"]), Decimal(given["late_quantity"])
    amounts = []
    for quantity in (billed, billed + late):
        lines = _lines({"quantity": quantity}, terms, currency)
        amounts.append(sum_minor(lines) + (_true_up(lines, terms, given, currency) or 0))
    already, should_be = amounts
    adjustment = adjustment_minor(already_billed_minor=already, should_be_minor=should_be)
    return {
        "already_billed": minor_text(already, currency),
        "should_be": minor_text(should_be, currency),
        "adjustment": minor_text(adjustment, currency),
    }


def price_change(given: Case) -> dict[str, Any]:
    currency = given["currency"]
    versions = [
        PriceVersion(
            id=row["id"],
            price=Decimal(row["price"]),
            per=int(row.get("per", 1)),
            effective_from=_instant(row["effective_from"]),
            effective_to=_instant_or_none(row.get("effective_to")),
        )
        for row in given["versions"]
    ]
    events = [(_instant(event["at"]), Decimal(event["quantity"])) for event in given["events"]]
    lines = rate_versions(versions, events, currency=currency)
    return {
        "lines": [
            {
                "version": line.version,
                "quantity": plain_text(line.quantity),
                "amount": minor_text(line.amount_minor, currency),
            }
            for line in lines
        ],
        "amount": minor_text(sum_minor(lines), currency),
    }


def proration(given: Case) -> dict[str, Any]:
    unused = unused_of(
        period_start=_instant(given["period_start"]),
        period_end=_instant(given["period_end"]),
        change_at=_instant(given["change_at"]),
        timezone=given["timezone"],
        mode=given["mode"],
    )
    made = prorate(
        unused=unused,
        old_price=Decimal(given["old_price"]),
        new_price=Decimal(given["new_price"]),
        old_quantity=Decimal(given.get("old_quantity", 1)),
        new_quantity=Decimal(given.get("new_quantity", 1)),
        currency=given["currency"],
    )
    return {
        "numerator": unused.unused,
        "denominator": unused.whole,
        "credit": minor_text(made.credit_minor, given["currency"]),
        "charge": minor_text(made.charge_minor, given["currency"]),
        "net": minor_text(made.net_minor, given["currency"]),
    }


def fx_cost_plus(given: Case) -> dict[str, Any]:
    converted = [convert_pico(_to_pico(day["cost"]), Decimal(day["rate"])) for day in given["days"]]
    terms = CostPlus(Decimal(given["markup_percent"]))
    lines = rate_costs(terms, cost_pico=sum(converted), requests=len(converted), currency=given["currency"])
    return {
        "converted": [_from_pico(pico) for pico in converted],
        "converted_total": _from_pico(sum(converted)),
        "amount": minor_text(sum_minor(lines), given["currency"]),
    }


# ------------------------------------------------------------------ documents


def invoice(given: Case) -> dict[str, Any]:
    currency = given["currency"]
    lines = [
        DocumentLine(row["id"], _line_minor(row, currency), row["tax"], row.get("kind", "usage"))
        for row in given["lines"]
    ]
    prepaid_pico = _to_pico(given.get("prepaid_balance") or "0")
    totals = totals_of(
        lines,
        tax_rates=_tax_rates(given),
        currency=currency,
        discounts=[_discount(row, lines) for row in given.get("discounts") or ()],
        promotional_minor=_floor_minor(given.get("promotional_credit"), currency),
        prepaid_minor=_floor_minor(given.get("prepaid_balance"), currency),
        issue_zero_invoices=bool(given.get("issue_zero_invoices")),
    )

    def text(minor: int) -> str:
        return minor_text(minor, currency)

    answer: dict[str, Any] = {
        "subtotal": text(totals.subtotal_minor),
        "discount_total": text(totals.discount_total_minor),
        "lines": [
            {"id": line.id, "net": text(net)} for line, net in zip(lines, totals.nets_minor, strict=True)
        ],
        "tax_breakdown": [
            {
                "tax": tax.rate.key,
                "category": tax.rate.category,
                "percent": given["tax_rates"][tax.rate.key]["percent"],
                "taxable": text(tax.taxable_minor),
                "amount": text(tax.amount_minor),
            }
            for tax in totals.taxes
        ],
        "total_excluding_tax": text(totals.total_excluding_tax_minor),
        "total_tax": text(totals.total_tax_minor),
        "total": text(totals.total_minor),
        "document": totals.document,
        "amount_due": text(totals.amount_due_minor),
    }
    if given.get("promotional_credit") is not None:
        answer["promotional_credit_applied"] = text(totals.promotional_applied_minor)
    if given.get("prepaid_balance") is not None:
        answer["prepaid_applied"] = text(totals.prepaid_applied_minor)
        answer["prepaid_left"] = text(pico_to_minor(prepaid_pico, currency) - totals.prepaid_applied_minor)
    return answer


def credit_notes(given: Case) -> dict[str, Any]:
    currency, rates = given["currency"], _tax_rates(given)
    lines = [
        InvoicedLine(row["id"], to_minor(Decimal(row["net"]), currency), row["tax"]) for row in given["lines"]
    ]
    issued: list[Credit] = []
    results: list[dict[str, Any]] = []
    for note in given["credit_notes"]:
        try:
            made = credit(
                [(row["id"], to_minor(Decimal(row["net"]), currency)) for row in note["lines"]],
                invoice=lines,
                tax_rates=rates,
                earlier=issued,
                paid_minor=to_minor(Decimal(given.get("paid") or 0), currency),
                prepaid_applied_minor=to_minor(Decimal(given.get("prepaid_applied") or 0), currency),
            )
        except ApiError:
            results.append({"status": "rejected"})
            continue
        issued.append(made)
        results.append(
            {
                "status": "issued",
                "net": minor_text(made.net_minor, currency),
                "tax_breakdown": [
                    {
                        "tax": tax.rate.key,
                        "taxable": minor_text(tax.taxable_minor, currency),
                        "amount": minor_text(tax.amount_minor, currency),
                    }
                    for tax in made.taxes
                ],
                "total": minor_text(made.total_minor, currency),
                "reduces_open_balance": minor_text(made.reduces_open_minor, currency),
                "refundable_to_payment": minor_text(made.refundable_minor, currency),
                "returned_to_wallet": minor_text(made.to_wallet_minor, currency),
            }
        )
    return {"invoice_total": minor_text(invoice_total(lines, rates), currency), "results": results}


def numbering(given: Case) -> dict[str, Any]:
    """The counters are kept here as the database keeps them: a row per key, raised by a finalization alone."""
    counters: dict[CounterKey, int] = {}
    numbers: dict[str, str] = {}
    results = []
    for action in given["actions"]:
        if action["type"] == "finalize" and action["id"] not in numbers:
            entity = given["entities"][action["entity"]]
            key = counter_of(
                entity=action["entity"],
                timezone=entity["timezone"],
                at=_instant(action["at"]),
                series=action.get("series") or "INV",
            )
            if action.get("transaction", "committed") != "rolled_back":
                counters[key] = counters.get(key, 0) + 1
                numbers[action["id"]] = number_text(entity["prefix"], key, counters[key])
        results.append({"id": action["id"], "number": numbers.get(action["id"])})
    return {"results": results}


def dunning(given: Case) -> dict[str, Any]:
    due_date, timezone = date.fromisoformat(given["due_date"]), given["timezone"]
    steps = reminders(
        due_date,
        timezone,
        local_time=time.fromisoformat(given["local_time"]),
        schedule_days=given["schedule_days"],
    )
    return {
        "overdue_from": _utc_text(overdue_from(due_date, timezone)),
        "steps": [{"day": step.day, "at": _utc_text(step.at)} for step in steps],
    }


# ------------------------------------------------------------------ wallets


def wallet(given: Case) -> dict[str, Any]:
    """The balances are kept here as the wallet's entries do: what each grant still has."""
    grants = [
        Grant(
            id=row["id"],
            amount_pico=_to_pico(row["amount"]),
            category=row.get("category", "paid"),
            effective_at=_instant(row["effective_at"]),
            expires_at=_instant_or_none(row.get("expires_at")),
            priority=int(row.get("priority", 50)),
        )
        for row in given["grants"]
    ]
    left = {grant.id: grant.amount_pico for grant in grants}
    debits = []
    for row in given["debits"]:
        drawn = draw(_to_pico(row["amount"]), grants, left, at=_instant(row["at"]))
        for part in drawn.allocations:
            left[part.grant_id] -= part.amount_pico
        debits.append(
            {
                "allocations": [
                    {"grant": part.grant_id, "amount": _from_pico(part.amount_pico)}
                    for part in drawn.allocations
                ],
                "uncovered": _from_pico(drawn.uncovered_pico),
            }
        )
    last = max((_instant(row["at"]) for row in given["debits"]), default=None)
    as_of = _instant_or_none(given.get("as_of")) or last
    expired = {grant.id for grant in grants if as_of is not None and grant.has_expired(as_of)}
    return {
        "debits": debits,
        "grants": [
            {
                "id": grant.id,
                "remaining": _from_pico(0 if grant.id in expired else left[grant.id]),
                "expired": _from_pico(left[grant.id] if grant.id in expired else 0),
            }
            for grant in grants
        ],
    }


def topup(given: Case) -> dict[str, Any]:
    balance = _to_pico(given["balance"])
    cap = given.get("monthly_cap")
    added: dict[tuple[int, int], int] = {}
    topups: list[dict[str, Any]] = []
    for debit in given["debits"]:
        balance -= _to_pico(debit["amount"])
        month = cap_month(_instant(debit["at"]), given.get("timezone") or "UTC")
        answer = top_up(
            balance_pico=balance,
            threshold_pico=_to_pico(given["threshold"]),
            amount_pico=_to_pico(given["topup_amount"]),
            monthly_cap_pico=None if cap is None else _to_pico(cap),
            added_this_month_pico=added.get(month, 0),
        )
        if answer is None:
            continue
        if answer.amount_pico is None:
            topups.append(
                {"at": debit["at"], "topup": None, "reason": answer.reason, "balance": _from_pico(balance)}
            )
            continue
        balance += answer.amount_pico
        added[month] = added.get(month, 0) + answer.amount_pico
        topups.append({"at": debit["at"], "topup": given["topup_amount"], "balance": _from_pico(balance)})
    return {"topups": topups, "balance": _from_pico(balance)}


# ------------------------------------------------------------------ the ledger


def ledger(given: Case) -> dict[str, Any]:
    taken = take(
        Entry(
            source=row.get("source", ""),
            event_id=row["event_id"],
            occurred_at=_instant(row["occurred_at"]),
            quantity=Decimal(row["quantity"]),
            amount_pico=_to_pico(row["amount"]),
        )
        for row in given["events"]
    )
    entries = list(taken.entries)
    for row in given.get("amendments") or ():
        key = next(
            entry.key
            for entry in taken.entries
            if entry.event_id == row["event_id"] and row.get("source", entry.source) == entry.source
        )
        new = row.get("replacement")
        entries += amend(
            standing(entries, key),
            None if new is None else (Decimal(new["quantity"]), _to_pico(new["amount"])),
        )
    return {
        "duplicates_ignored": taken.duplicates,
        "conflicts": list(taken.conflicts),
        **_sums(sums_of(entries)),
        "by_local_day": {
            day.isoformat(): _sums(sums) for day, sums in by_local_day(entries, given["timezone"]).items()
        },
    }


def rerating(given: Case) -> dict[str, Any]:
    old, new = (
        UnitRate(Decimal(given[name]["price"]), int(given[name].get("per", 1)))
        for name in ("old_rate", "new_rate")
    )
    done = rerate(
        [
            RatedEntry(
                row["event_id"],
                _instant(row["occurred_at"]),
                Decimal(row["quantity"]),
                _to_pico(row["charged"]),
            )
            for row in given["entries"]
        ],
        old=old,
        new=new,
        effective_from=_instant(given["window"]["from"]),
        effective_to=_instant_or_none(given["window"].get("to")),
    )
    return {
        "deltas": [
            {"event_id": delta.event_id, "delta": _from_pico(delta.delta_pico)} for delta in done.deltas
        ],
        "original_cost": _from_pico(done.original_cost_pico),
        "delta_total": _from_pico(done.delta_total_pico),
        "new_cost": _from_pico(done.new_cost_pico),
        "charged": _from_pico(done.charged_pico),
        "margin_before": _from_pico(done.margin_before_pico),
        "margin_after": _from_pico(done.margin_after_pico),
    }


def reconciliation(given: Case) -> dict[str, Any]:
    done = reconcile(
        [
            Day(date.fromisoformat(row["day"]), _to_pico(row["ledger"]), _to_pico(row["provider"]))
            for row in given["days"]
        ],
        Tolerance(Decimal(given["tolerance_abs"]), Decimal(given["tolerance_percent"])),
    )
    rate = done.capture_rate_e4
    return {
        "days": [
            {
                "day": matched.day.day.isoformat(),
                "variance": _from_pico(matched.day.variance_pico),
                "status": matched.status,
            }
            for matched in done.days
        ],
        "ledger_total": _from_pico(done.ledger_pico),
        "provider_total": _from_pico(done.provider_pico),
        "variance_total": _from_pico(done.variance_pico),
        "capture_rate_percent": None if rate is None else fixed_text(rate, 4),
    }


# ------------------------------------------------------------------ economics


def economics(given: Case) -> dict[str, Any]:
    rows = []
    for row in given["rows"]:
        figures = unit_economics(
            Activity(
                revenue_pico=_to_pico(row.get("revenue") or "0"),
                provider_cost_pico=_to_pico(row.get("provider_cost") or "0"),
                other_variable_cost_pico=_to_pico(row.get("other_variable_cost") or "0"),
                tokens=int(row.get("tokens") or 0),
                requests=int(row.get("requests") or 0),
                active_users=int(row.get("active_users") or 0),
            ),
            target_margin_percent=Decimal(given["target_margin_percent"]),
        )
        answer: dict[str, Any] = {"key": row["key"]}
        for name in figures.__dataclass_fields__:
            value, (short, digits) = getattr(figures, name), name.rsplit("_e", 1)
            answer[short] = None if value is None else fixed_text(value, int(digits))
        rows.append(answer)
    return {"rows": rows}


def forecast(given: Case) -> dict[str, Any]:
    as_of = date.fromisoformat(given["as_of"])
    history = {date.fromisoformat(row["day"]): _to_pico(row["amount"]) for row in given["history"]}
    currency = given.get("currency", "USD")

    def text(pico: int | None) -> str | None:
        return None if pico is None else minor_text(pico_to_minor(pico, currency), currency)

    return {
        "month_to_date": text(month_to_date(history, as_of)),
        "run_rate": text(run_rate(history, as_of)),
        "seasonal_naive": text(seasonal_naive(history, as_of)),
    }


RUNNERS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "request_cost": request_cost,
    "charge": charge,
    "invoice": invoice,
    "price_change": price_change,
    "proration": proration,
    "credit_notes": credit_notes,
    "wallet": wallet,
    "topup": topup,
    "windows": windows,
    "budget": budget,
    "ledger": ledger,
    "late_usage": late_usage,
    "rerate": rerating,
    "fx_cost_plus": fx_cost_plus,
    "reconcile": reconciliation,
    "unit_economics": economics,
    "numbering": numbering,
    "dunning": dunning,
    "forecast": forecast,
}


# ------------------------------------------------------------------ spelling


def _lines(given: Case, terms: Case, currency: str) -> tuple[Line, ...]:
    events = given.get("events")
    match terms["model"]:
        case "cost_plus":
            counted = [(_to_pico(event["cost"]), int(event.get("count", 1))) for event in events or ()]
            return rate_costs(
                CostPlus(
                    Decimal(terms.get("markup_percent", 0)), Decimal(terms.get("fixed_per_request") or 0)
                ),
                cost_pico=sum(pico * count for pico, count in counted),
                requests=sum(count for _, count in counted),
                currency=currency,
            )
        case "percentage":
            return rate_events(
                _percentage(terms),
                [(Decimal(event["amount"]), int(event.get("count", 1))) for event in events or ()],
                currency=currency,
            )
    if given.get("quantity") is None:
        quantity = sum(
            (Decimal(event["quantity"]) * int(event.get("count", 1)) for event in events or ()), Decimal(0)
        )
    else:
        quantity = Decimal(given["quantity"])
    return rate_quantity(
        _unit_model(terms), quantity, currency=currency, included=Decimal(terms.get("included") or 0)
    )


def _unit_model(terms: Case) -> UnitModel:
    match terms["model"]:
        case "standard":
            return Standard(Decimal(terms["price"]), int(terms.get("per", 1)))
        case "package":
            return Package(Decimal(terms["package_size"]), Decimal(terms["package_price"]))
    tiers = tuple(
        Tier(
            None if row.get("up_to") is None else Decimal(row["up_to"]),
            Decimal(row.get("price") or 0),
            int(row.get("per") or 1),
            Decimal(row.get("flat") or 0),
        )
        for row in terms["tiers"]
    )
    return Graduated(tiers) if terms["model"] == "graduated" else Volume(tiers)


def _percentage(terms: Case) -> Percentage:
    """R7 gives the words rate, fixed, min and max; the keys may say of what."""

    def value(*words: str) -> Decimal | None:
        for name, found in terms.items():
            if {*name.split("_")} & {*words} and name != "minimum_commitment" and found is not None:
                return Decimal(found)
        return None

    return Percentage(
        value("rate", "percent", "percentage") or Decimal(0),
        value("fixed") or Decimal(0),
        value("min", "minimum"),
        value("max", "maximum"),
    )


def _true_up(lines: Sequence[Line], terms: Case, given: Case, currency: str) -> int | None:
    commitment = terms.get("minimum_commitment")
    if commitment is None:
        return None
    days = {name: terms.get(name, given.get(name)) for name in ("commitment_days", "period_days")}
    return true_up_minor(lines, Decimal(commitment), currency=currency, **days)


def _line_minor(row: Case, currency: str) -> int:
    if row.get("amount") is not None:
        return to_minor(Decimal(row["amount"]), currency)
    model = Standard(Decimal(row["price"]), int(row.get("per", 1)))
    return sum_minor(rate_quantity(model, Decimal(row["quantity"]), currency=currency))


def _discount(row: Case, lines: Iterable[DocumentLine]) -> Discount:
    """A name in `applies_to` is a line's id, else a kind of lines."""
    names = row.get("applies_to")
    if names in (None, "all"):
        return Discount(row["type"], Decimal(row["value"]))
    ids = {line.id for line in lines}
    eligible = frozenset(
        line.id for line in lines for name in names if name == (line.id if name in ids else line.kind)
    )
    return Discount(row["type"], Decimal(row["value"]), eligible)


def _tax_rates(given: Case) -> dict[str, TaxRate]:
    return {
        key: TaxRate(key, row["category"], Decimal(row["percent"])) for key, row in given["tax_rates"].items()
    }


def _floor_minor(text: str | None, currency: str) -> int:
    return _to_pico(text or "0") // 10 ** (12 - minor_digits(currency))


def _sums(sums: Sums) -> dict[str, Any]:
    return {
        "entries": sums.entries,
        "quantity": plain_text(sums.quantity),
        "amount": _from_pico(sums.amount_pico),
    }


def _component(name: str) -> str:
    return name.removesuffix("_tokens") if name.removesuffix("_tokens") in TOKENS else name


def _disjoint(usage: Mapping[str, int], convention: str) -> dict[str, int]:
    """R3 into disjoint units: what the adapters do with each provider's usage object."""
    units = {_component(name): count for name, count in usage.items()}
    if convention == "inclusive":
        units["input"] = units.get("input", 0) - sum(units.get(part, 0) for part in CACHE_PARTS)
    units["output"] = units.get("output", 0) - units.get("reasoning", 0)
    return units


def _rate(number: int, row: Case, *, parts: int) -> Rate:
    return Rate(
        component=row["component"],
        price=Decimal(row["price"]),
        per=int(row.get("per", 1)) * parts,
        currency=row.get("currency", "USD"),
        service_tier=row.get("service_tier") or "",
        min_input_tokens=int(row.get("min_input_tokens") or 0),
        effective_from=_instant(row["effective_from"]),
        effective_to=_instant_or_none(row.get("effective_to")),
        id=str(number),
    )


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _instant_or_none(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _window(window: Case, timezone: str, at: datetime) -> Window:
    if window.get("type", "calendar") not in ("calendar", "total"):
        raise NotImplementedError(f"{window['type']} windows")
    unit = "total" if window.get("type") == "total" else window["unit"]
    return window_of(
        unit,
        timezone,
        at,
        anchor_day=window.get("anchor_day") or 1,
        week_start=window.get("week_start") or 0,
    )


def _text(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _utc_text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _to_pico(text: str) -> int:
    return to_pico(Decimal(text))


def _from_pico(pico: int) -> str:
    return fixed_text(pico, 12)
