"""How templates show icons, counts, durations and times.

Formatting only: a number that needs a query or a rule is computed before the template sees it.
"""

from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal

from babel import Locale
from babel.dates import format_datetime, format_timedelta
from babel.numbers import format_compact_decimal, format_decimal, format_percent
from django import template
from django.forms import BoundField
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import get_language

register = template.Library()

COMPACT_FROM = 100_000
MISSING = "–"  # noqa: RUF001, an en dash is the typographic sign for an absent number


def _locale() -> Locale:
    return Locale.parse(get_language() or "en", sep="-")


@register.simple_tag
def icon(name: str, css: str = "icon") -> SafeString:
    """One symbol of the vendored sprite, decorative: the words stand beside it or in the control's label."""
    return format_html(
        '<svg class="{}" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        css,
        static("console/icons.svg"),
        name,
    )


@register.filter
def count(value: int | Decimal | None) -> SafeString | str:
    """12,345; from 100,000 on in short (1.2M) with the whole number on hover."""
    if value is None:
        return MISSING
    whole = format_decimal(value, locale=_locale())
    if -COMPACT_FROM < value < COMPACT_FROM:
        return whole
    short = format_compact_decimal(value, locale=_locale(), fraction_digits=1)
    return format_html('<data value="{}" title="{}">{}</data>', value, whole, short)


@register.filter
def percent(share: float | Decimal | None) -> str:
    """A share of one as a percentage with one decimal; never rounds failures away to 100%."""
    if share is None:
        return MISSING
    exact = Decimal(str(share))
    shown = exact.quantize(Decimal("0.001"), ROUND_HALF_UP)
    if shown == 1 and exact < 1:
        return ">" + format_percent(Decimal("0.999"), "#,##0.0%", locale=_locale())
    return format_percent(shown, "#,##0.#%", locale=_locale())


@register.filter
def ms(value: float | None) -> str:
    """Milliseconds as 843 ms, 1.27 s or 2 min 5 s."""
    if value is None:
        return MISSING
    if value < 1000:
        return f"{format_decimal(round(value), locale=_locale())} ms"
    if value < 60_000:
        return f"{format_decimal(Decimal(round(value)) / 1000, '0.00', locale=_locale())} s"
    minutes, seconds = divmod(round(value / 1000), 60)
    return f"{minutes} min {seconds} s"


@register.filter
def ago(moment: datetime | None) -> SafeString | str:
    """Relative time; the reader's and the UTC clock on hover."""
    if moment is None:
        return "never"
    delta = moment - timezone.now()
    words = format_timedelta(delta, add_direction=True, locale=_locale(), granularity="second")
    return _time(moment, words)


@register.filter
def at(moment: datetime | None) -> SafeString | str:
    """Date and time in the reader's zone; UTC on hover."""
    if moment is None:
        return MISSING
    local = timezone.localtime(moment)
    return _time(moment, format_datetime(local, "d MMM y, HH:mm:ss", locale=_locale()))


def _time(moment: datetime, words: str) -> SafeString:
    local = format_datetime(timezone.localtime(moment), "d MMM y, HH:mm:ss zzz", locale=_locale())
    utc = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    title = utc if timezone.get_current_timezone_name() == "UTC" else f"{local} ({utc})"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', f"{moment:%Y-%m-%dT%H:%M:%SZ}", title, words
    )


@register.filter
def at_short(moment: datetime) -> SafeString:
    """As `at`, without the year: for logs, where every row is recent."""
    return _time(moment, format_datetime(timezone.localtime(moment), "d MMM HH:mm:ss", locale=_locale()))


@register.filter
def clock(moment: datetime) -> str:
    """Hour and minute in the reader's zone."""
    return f"{timezone.localtime(moment):%H:%M}"


@register.filter
def with_state(field: BoundField) -> SafeString:
    """The widget, told to assistive technology as wrong and described where it is."""
    described = [f"{field.auto_id}-help"] if field.help_text else []
    attrs: dict[str, str | bool] = {}
    if field.errors:
        described.append(f"{field.auto_id}-error")
        attrs["aria-invalid"] = "true"
    if described:
        attrs["aria-describedby"] = " ".join(described)
    return field.as_widget(attrs=attrs)
