"""The wallet's REST resources: what it holds, its grants and entries, top-ups.

Shapes only: every change is one verb's. Credit is granted, and made a limit, by operators alone, whatever a
tenant's key may do; a tenant tops up, and says when that happens by itself.
"""

from datetime import UTC
from decimal import Decimal
from typing import Any, ClassVar, cast

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import CreditGrant, Wallet, WalletEntry
from billing.payments.api import PaymentShownSerializer, key_of, payment_shown, start_soon, to_exact_minor
from billing.payments.book import ask_for_top_up
from billing.rating.money import PICO, amount_text, minor_text
from billing.wallets import book
from billing.wallets.prepaid import spendable_pico, switch
from billing.wallets.setup import AutoTopUp, set_auto_top_up
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.rest import Guarded, ReadResource, StrictSerializer

READ, WRITE = "wallet:read", "wallet:write"
_CURRENCY = r"^[A-Z]{3}$"
MAX_AMOUNT = Decimal(10) ** 12


class GrantShownSerializer(serializers.Serializer[Any]):
    """Credit given at once. Amounts are exact, up to twelve decimals."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    category = serializers.ChoiceField(choices=CreditGrant.Category.choices)
    source = serializers.ChoiceField(  # type: ignore[assignment]  # DRF takes declared fields off the class
        choices=CreditGrant.Source.choices
    )
    amount = serializers.CharField()
    remaining = serializers.CharField()
    currency = serializers.CharField()
    priority = serializers.IntegerField()
    effective_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()

    def to_representation(self, instance: CreditGrant) -> dict[str, Any]:
        return {
            "id": str(instance.pk),
            "name": instance.name,
            "category": instance.category,
            "source": instance.source,
            "amount": amount_text(int(instance.amount_pico)),
            "remaining": amount_text(int(instance.remaining_pico)),
            "currency": instance.wallet.currency,
            "priority": instance.priority,
            "effective_at": instance.effective_at,
            "expires_at": instance.expires_at,
            "created_at": instance.created_at,
        }


class EntryShownSerializer(serializers.Serializer[Any]):
    """One movement of one grant, signed."""

    id = serializers.UUIDField()
    kind = serializers.ChoiceField(choices=WalletEntry.Kind.choices)
    amount = serializers.CharField()
    currency = serializers.CharField()
    at = serializers.DateTimeField()
    grant = serializers.UUIDField()
    invoice = serializers.UUIDField(allow_null=True)
    request_id = serializers.UUIDField(allow_null=True)

    def to_representation(self, instance: WalletEntry) -> dict[str, Any]:
        return {
            "id": str(instance.pk),
            "kind": instance.kind,
            "amount": amount_text(int(instance.amount_pico)),
            "currency": instance.wallet.currency,
            "at": instance.at,
            "grant": str(instance.grant_id),
            "invoice": str(instance.invoice_id) if instance.invoice_id else None,
            "request_id": str(instance.request_id) if instance.request_id else None,
        }


class AutoTopUpSerializer(StrictSerializer):
    """Below `below`, add `amount` once, within `monthly_cap` per calendar month of the tenant."""

    below = serializers.DecimalField(max_digits=16, decimal_places=4, min_value=Decimal("0.0001"))
    amount = serializers.DecimalField(max_digits=16, decimal_places=4, min_value=Decimal("0.0001"))
    monthly_cap = serializers.DecimalField(
        max_digits=16, decimal_places=4, min_value=Decimal(0), required=False, allow_null=True
    )


class WalletSerializer(StrictSerializer):
    """What a tenant has in advance. `balance` is all of it, `spendable` what is usable now less the calls that no
    invoice has drawn on it for yet. With `is_prepaid` calls stop where it ends."""

    currency = serializers.CharField(read_only=True)
    balance = serializers.CharField(read_only=True)
    spendable = serializers.CharField(read_only=True)
    is_prepaid = serializers.BooleanField(required=False)
    auto_top_up = AutoTopUpSerializer(required=False, allow_null=True)
    grants = GrantShownSerializer(many=True, read_only=True)


class GrantSerializer(StrictSerializer):
    """Credit to give."""

    amount = serializers.DecimalField(
        max_digits=24, decimal_places=12, min_value=Decimal("0.000000000001"), max_value=MAX_AMOUNT
    )
    currency = serializers.RegexField(_CURRENCY, required=False)
    category = serializers.ChoiceField(choices=CreditGrant.Category.choices)
    name = serializers.CharField(max_length=200, required=False, allow_blank=True)
    priority = serializers.IntegerField(min_value=0, max_value=1000, required=False)
    effective_at = serializers.DateTimeField(required=False, default_timezone=UTC)
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default_timezone=UTC)


class TopUpSerializer(StrictSerializer):
    """An amount to pay into the wallet."""

    amount = serializers.DecimalField(max_digits=16, decimal_places=4, min_value=Decimal("0.0001"))
    currency = serializers.RegexField(_CURRENCY, required=False)


class WalletView(Guarded):
    """A tenant's wallet in one currency, its own unless asked for another."""

    read_scope, write_scope = READ, WRITE
    http_method_names = ["get", "patch", "head"]

    @extend_schema(parameters=[OpenApiParameter("currency")], responses={200: WalletSerializer})
    def get(self, request: Request, tenant: str) -> Response:
        """What it holds. A tenant that never had credit has an empty one."""
        return Response(self._shown(self._currency(request)))

    @extend_schema(
        parameters=[OpenApiParameter("currency")], request=WalletSerializer, responses={200: WalletSerializer}
    )
    def patch(self, request: Request, tenant: str) -> Response:
        """Set automatic top-ups; for operators, whether the balance limits calls.

        Raises ApiError as `switch` and `set_auto_top_up`.
        """
        wanted = WalletSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        given, currency = wanted.validated_data, self._currency(request)
        if not given:
            raise ApiError("invalid_request", "There is nothing to change.")
        if "is_prepaid" in given:
            self.require(WRITE, None)
        held = book.locked_wallet(self._of(), currency)
        is_changed = False
        if "is_prepaid" in given and given["is_prepaid"] != held.is_prepaid:
            switch(wallet=held, is_prepaid=given["is_prepaid"], now=timezone.now(), actor=self.principal)
            is_changed = True
        if "auto_top_up" in given or not is_changed:
            terms = given.get("auto_top_up", _auto(held))
            set_auto_top_up(wallet=held, terms=_terms(terms, currency), actor=self.principal)
        return Response(self._shown(currency))

    def _of(self) -> Tenant:
        return cast("Tenant", self.tenant)

    def _currency(self, request: Request) -> str:
        for name in request.query_params:
            if name != "currency":
                raise ApiError("unknown_field", f"The parameter {name!r} is unknown.", param=name)
        return _currency_of(request.query_params.get("currency"), self._of())

    def _shown(self, currency: str) -> dict[str, Any]:
        held = Wallet.objects.for_tenant(self._of()).filter(currency=currency).first()
        if held is None:
            return {
                "currency": currency,
                "balance": "0",
                "spendable": "0",
                "is_prepaid": False,
                "auto_top_up": None,
                "grants": [],
            }
        rows = held.grants.filter(remaining_pico__gt=0).select_related("wallet")
        held.tenant = self._of()
        return {
            "currency": currency,
            "balance": amount_text(int(held.balance_pico)),
            "spendable": amount_text(spendable_pico(held, timezone.now())),
            "is_prepaid": held.is_prepaid,
            "auto_top_up": _auto(held),
            "grants": GrantShownSerializer(rows, many=True).data,
        }


class GrantResource(ReadResource[CreditGrant]):
    """A tenant's grants. Operators alone give credit."""

    queryset = CreditGrant.objects.select_related("wallet")
    serializer_class = GrantShownSerializer
    read_scope, write_scope = READ, WRITE
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {"category": "category", "source": "source", "currency": "wallet__currency"}

    @extend_schema(request=GrantSerializer, responses={201: GrantShownSerializer})
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Give credit. Raises ApiError as `grant`."""
        self.require(WRITE, None)
        wanted = GrantSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        given = dict(wanted.validated_data)
        of = cast("Tenant", self.tenant)
        made = book.grant(
            tenant=of,
            currency=_currency_of(given.pop("currency", None), of),
            amount_pico=int(given.pop("amount") * PICO),
            at=timezone.now(),
            actor=self.principal,
            **given,
        )
        return Response(GrantShownSerializer(made).data, 201)


class EntryResource(ReadResource[WalletEntry]):
    """Every movement of a tenant's credit, newest first."""

    queryset = WalletEntry.objects.select_related("wallet")
    serializer_class = EntryShownSerializer
    read_scope = READ
    http_method_names = ["get", "head"]
    filters: ClassVar = {
        "kind": "kind",
        "grant": "grant",
        "invoice": "invoice",
        "currency": "wallet__currency",
        "since": "at__gte",
        "until": "at__lt",
    }


class TopUpView(Guarded):
    """Paying into the wallet."""

    read_scope, write_scope = READ, WRITE
    http_method_names = ["post"]

    @extend_schema(request=TopUpSerializer, responses={201: PaymentShownSerializer})
    def post(self, request: Request, tenant: str) -> Response:
        """Ask for a payment. Its `checkout_url` is there a moment later, under `/payments/{id}/`."""
        wanted = TopUpSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        given, of = wanted.validated_data, cast("Tenant", self.tenant)
        currency = _currency_of(given.get("currency"), of)
        made = ask_for_top_up(
            tenant=of,
            currency=currency,
            amount_minor=to_exact_minor(given["amount"], currency, "amount"),
            key=key_of(request, self.principal),
            now=timezone.now(),
            actor=self.principal,
        )
        start_soon()
        return Response(payment_shown(made), 201)


def _currency_of(text: str | None, tenant: Tenant) -> str:
    """Raises ApiError invalid_request for what is no currency's code."""
    if text is None:
        return tenant.currency
    if len(text) != 3 or not text.isascii() or not text.isalpha() or not text.isupper():
        raise ApiError("invalid_request", "A currency is three capital letters.", param="currency")
    return text


def _auto(held: Wallet) -> dict[str, Any] | None:
    below, amount, cap = (
        held.top_up_below_minor,
        held.top_up_amount_minor,
        held.top_up_monthly_cap_minor,
    )
    if below is None or amount is None:
        return None
    return {
        "below": minor_text(below, held.currency),
        "amount": minor_text(amount, held.currency),
        "monthly_cap": None if cap is None else minor_text(cap, held.currency),
    }


def _terms(given: dict[str, Any] | None, currency: str) -> AutoTopUp | None:
    if given is None:
        return None
    cap = given.get("monthly_cap")

    def minor(name: str) -> int:
        return to_exact_minor(Decimal(given[name]), currency, f"auto_top_up.{name}")

    return AutoTopUp(
        below_minor=minor("below"),
        amount_minor=minor("amount"),
        monthly_cap_minor=None if cap is None else minor("monthly_cap"),
    )
