"""What the money pages' templates need beside `money` and `console`: addresses of both places, minor units."""

from typing import Any

from django import template
from django.template.context import RequestContext
from django.utils.safestring import SafeString

from billing.console import places
from billing.rating.money import minor_to_pico
from gateway.templatetags.money import money

register = template.Library()


@register.simple_tag(takes_context=True)
def here(context: RequestContext, name: str, **kwargs: Any) -> str:
    """`{% here 'budget_edit' budget_id=budget.id %}`: the page in this place, platform or tenant."""
    return places.here(context["request"], name, **kwargs)


@register.filter
def minor(amount: int | None, currency: str) -> SafeString:
    """`{{ invoice.total_minor|minor:invoice.currency }}`: whole minor units as money."""
    return money(None if amount is None else minor_to_pico(amount, currency), currency)
