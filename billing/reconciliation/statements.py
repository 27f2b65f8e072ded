"""Provider bills as text to plain lines: OpenAI's costs, Anthropic's cost report, CSV, FOCUS. Pure.

Amounts go from the text to Decimal to pico-units: no float on the way. A text that is not what it should be
is refused whole, with the place.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from billing.rating.money import to_pico
from billing.reconciliation.family import family_of

MAX_TEXT: Final = 300


class StatementInvalid(ValueError):
    """The text is no bill of this kind; says where it stops being one."""


@dataclass(frozen=True, slots=True)
class BilledItem:
    """One item of one UTC day. `raw` is the item as the provider wrote it, numbers as text."""

    day: date
    account: str
    item: str
    model_family: str
    quantity: Decimal | None
    quantity_unit: str
    amount_pico: int
    currency: str
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a cost API: its items, and where the next one begins (None: this was the last)."""

    items: tuple[BilledItem, ...]
    next_page: str | None


def openai_page(text: str) -> Page:
    """A page of `GET /v1/organization/costs` (daily buckets). Raises StatementInvalid.

    https://platform.openai.com/docs/api-reference/usage/costs : `amount.value` is a JSON number of whole
    currency units, `line_item` is null unless grouped by it.
    """
    items = []
    data = _json(text)
    for bucket in _list(data, "data"):
        day = _unix_day(bucket.get("start_time"))
        for result in _list(bucket, "results"):
            amount = result.get("amount")
            if not isinstance(amount, dict):
                msg = f"a result of {day} has no amount"
                raise StatementInvalid(msg)
            items.append(
                _item(
                    day=day,
                    account=_text(result.get("project_id")),
                    item=_text(result.get("line_item")),
                    model=_text(result.get("line_item")),
                    quantity=_optional(result.get("quantity"), "quantity"),
                    unit=_text(result.get("quantity_unit")),
                    amount=_decimal(amount.get("value"), "amount.value"),
                    currency=_text(amount.get("currency")),
                    raw=result,
                )
            )
    return Page(tuple(items), _next(data))


def anthropic_page(text: str) -> Page:
    """A page of `GET /v1/organizations/cost_report` (daily buckets). Raises StatementInvalid.

    https://platform.claude.com/docs/en/api/admin/cost_report : `amount` is a decimal string in cents.
    Priority-tier costs are not in this report: reconciling them stays open.
    """
    items = []
    data = _json(text)
    for bucket in _list(data, "data"):
        day = _iso_day(bucket.get("starting_at"))
        for result in _list(bucket, "results"):
            description = _text(result.get("description"))
            items.append(
                _item(
                    day=day,
                    account=_text(result.get("workspace_id")),
                    item=description,
                    model=_text(result.get("model")) or description,
                    quantity=None,
                    unit="",
                    amount=_decimal(result.get("amount"), "amount") / 100,
                    currency=_text(result.get("currency")),
                    raw=result,
                )
            )
    return Page(tuple(items), _next(data))


def csv_items(text: str) -> tuple[BilledItem, ...]:
    """`day,amount,currency` and, if there, `account,item,model,quantity,unit`. Raises StatementInvalid."""
    items = []
    for number, row in _rows(text, ("day", "amount", "currency")):
        try:
            items.append(
                _item(
                    day=_iso_day(row["day"]),
                    account=row.get("account", ""),
                    item=row.get("item", ""),
                    model=row.get("model", "") or row.get("item", ""),
                    quantity=_optional(row.get("quantity"), "quantity"),
                    unit=row.get("unit", ""),
                    amount=_decimal(row["amount"], "amount"),
                    currency=row["currency"],
                    raw=row,
                )
            )
        except StatementInvalid as error:
            msg = f"line {number}: {error}"
            raise StatementInvalid(msg) from error
    return tuple(items)


def focus_items(text: str) -> tuple[BilledItem, ...]:
    """Rows of a FOCUS Cost and Usage file (1.0 to 1.4) by the UTC day in which their charge period starts.

    Taxes and credits are left out: the ledger knows neither. Raises StatementInvalid.
    """
    items = []
    for number, row in _rows(text, ("ChargePeriodStart", "BilledCost", "BillingCurrency", "ChargeCategory")):
        if row["ChargeCategory"] in ("Tax", "Credit"):
            continue
        try:
            details = _details(row.get("SkuPriceDetails", ""))
            items.append(
                _item(
                    day=_iso_day(row["ChargePeriodStart"]),
                    account=row.get("SubAccountId", "") or row.get("BillingAccountId", ""),
                    item=row.get("ChargeDescription", "") or row.get("SkuMeter", ""),
                    model=details.get("x_Model")
                    or row.get("x_Model", "")
                    or row.get("ResourceName", "")
                    or row.get("SkuId", ""),
                    quantity=_optional(row.get("ConsumedQuantity"), "ConsumedQuantity"),
                    unit=row.get("ConsumedUnit", ""),
                    amount=_decimal(row["BilledCost"], "BilledCost"),
                    currency=row["BillingCurrency"],
                    raw=row,
                )
            )
        except StatementInvalid as error:
            msg = f"line {number}: {error}"
            raise StatementInvalid(msg) from error
    return tuple(items)


# ------------------------------------------------------------------ pieces


def _item(
    *,
    day: date,
    account: str,
    item: str,
    model: str,
    quantity: Decimal | None,
    unit: str,
    amount: Decimal,
    currency: str,
    raw: Mapping[str, Any],
) -> BilledItem:
    code = currency.strip().upper()
    if len(code) != 3 or not code.isalpha() or not code.isascii():
        msg = f"{currency!r} is no currency"
        raise StatementInvalid(msg)
    return BilledItem(
        day=day,
        account=account[:200],
        item=item[:MAX_TEXT],
        model_family=family_of(model)[:200],
        quantity=quantity,
        quantity_unit=unit[:63],
        amount_pico=to_pico(amount),
        currency=code,
        raw=raw,
    )


def _json(text: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
    except ValueError as error:
        msg = f"it is no JSON: {error}"
        raise StatementInvalid(msg) from error
    if not isinstance(data, dict):
        msg = "it is no JSON object"
        raise StatementInvalid(msg)
    return data


def _list(data: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = data.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        msg = f"{name!r} is no list of objects"
        raise StatementInvalid(msg)
    return found


def _next(data: Mapping[str, Any]) -> str | None:
    if not data.get("has_more"):
        return None
    page = data.get("next_page")
    if not isinstance(page, str) or not page:
        msg = "it has more, but no next page"
        raise StatementInvalid(msg)
    return page


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _optional(value: Any, name: str) -> Decimal | None:
    return None if value in (None, "") else _decimal(value, name)


def _decimal(value: Any, name: str) -> Decimal:
    """Raises StatementInvalid for what is no finite number."""
    try:
        number = Decimal(str(value))
    except InvalidOperation as error:
        msg = f"{name} is no number"
        raise StatementInvalid(msg) from error
    if not number.is_finite() or abs(number.adjusted()) > 30:
        msg = f"{name} is no amount"
        raise StatementInvalid(msg)
    return number


def _unix_day(value: Any) -> date:
    try:
        return datetime.fromtimestamp(int(str(value)), UTC).date()
    except (ValueError, OverflowError, OSError) as error:
        msg = f"{value!r} is no unix time"
        raise StatementInvalid(msg) from error


def _iso_day(value: Any) -> date:
    """The UTC day of a date or an instant; an instant without a zone is UTC."""
    try:
        instant = datetime.fromisoformat(str(value).strip())
    except ValueError as error:
        msg = f"{value!r} is no day"
        raise StatementInvalid(msg) from error
    return (instant if instant.tzinfo is None else instant.astimezone(UTC)).date()


def _rows(text: str, needed: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, str]]]:
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
    try:
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            msg = f"it has no column {missing[0]!r}"
            raise StatementInvalid(msg)
        for row in reader:
            if None in row or None in row.values():
                msg = f"line {reader.line_num}: it has not as many cells as the head"
                raise StatementInvalid(msg)
            yield reader.line_num, row
    except csv.Error as error:
        msg = f"line {reader.line_num}: {error}"
        raise StatementInvalid(msg) from error


def _details(text: str) -> Mapping[str, str]:
    if not text:
        return {}
    return {name: _text(value) for name, value in _json(text).items()}
