"""The proof of the wallets (I5): what they hold is what their entries say, and what documents and payments moved.

Reads alone, inside the caller's snapshot.
"""

from collections.abc import Iterable

from django.db.models import F, Q, Sum

from billing.checks import Check, exceptions
from billing.models import CreditGrant, CreditNote, Invoice, Payment, Wallet, WalletEntry
from billing.rating.money import amount_text, minor_to_pico


def wallet_checks() -> tuple[Check, ...]:
    """All wallets, whatever the span: a balance has no period."""
    return (_balance_check(), _applied_check(), _returned_check(), _paid_in_check())


def _balance_check() -> Check:
    entries = _sums(WalletEntry.objects.order_by().values_list("wallet").annotate(sum=Sum("amount_pico")))
    grants = _sums(CreditGrant.objects.order_by().values_list("wallet").annotate(sum=Sum("remaining_pico")))
    by_grant = _sums(WalletEntry.objects.order_by().values_list("grant").annotate(sum=Sum("amount_pico")))
    wrong = []
    wallets = list(Wallet.objects.values_list("pk", "tenant__slug", "currency", "balance_pico"))
    for pk, slug, currency, balance in wallets:
        said, left = entries.get(pk, 0), grants.get(pk, 0)
        if not balance == said == left or balance < 0:
            wrong.append(
                f"{slug} {currency}: balance {amount_text(int(balance))}, entries {amount_text(said)}, "
                f"grants {amount_text(left)}"
            )
    for pk, remaining in CreditGrant.objects.values_list("pk", "remaining_pico"):
        if by_grant.get(pk, 0) != remaining:
            wrong.append(f"grant {pk}: {amount_text(int(remaining))} left, not what its entries say")
    return exceptions("wallet balance = its entries (I5)", wrong, len(wallets), "wallets")


def _applied_check() -> Check:
    """What a document took: promotional credit and prepaid balance, each by its draws."""
    drawn: dict[tuple[object, str], int] = {}
    rows = WalletEntry.objects.filter(kind=WalletEntry.Kind.DRAW, invoice__isnull=False).order_by()
    for invoice, category, total in rows.values_list("invoice", "grant__category").annotate(
        sum=Sum("amount_pico")
    ):
        drawn[invoice, category] = -int(total)
    told = Invoice.objects.filter(
        Q(promotional_minor__gt=0) | Q(prepaid_minor__gt=0) | Q(pk__in=rows.values("invoice"))
    )
    wrong, seen = [], 0
    for each in told.exclude(status=Invoice.Status.DRAFT).only(
        "number", "currency", "promotional_minor", "prepaid_minor", "status"
    ):
        seen += 1
        for category, minor in (("promotional", each.promotional_minor), ("paid", each.prepaid_minor)):
            found, wanted = drawn.get((each.pk, category), 0), minor_to_pico(minor, each.currency)
            if found != wanted:
                wrong.append(
                    f"{each.number}: {amount_text(wanted)} of {category} credit applied, "
                    f"{amount_text(found)} drawn"
                )
    return exceptions("credit applied to documents = its draws (I5)", wrong, seen, "documents")


def _returned_check() -> Check:
    notes = CreditNote.objects.filter(Q(to_wallet_minor__gt=0) | Q(grant__isnull=False)).values_list(
        "number", "currency", "to_wallet_minor", "grant__amount_pico"
    )
    wrong = [
        f"{number}: {amount_text(minor_to_pico(minor, currency))} returned, grant of {amount_text(int(amount or 0))}"
        for number, currency, minor, amount in notes
        if minor_to_pico(minor, currency) != int(amount or 0)
    ]
    return exceptions(
        "credit notes' return to wallets = their grants (I5)", wrong, len(notes), "credit notes"
    )


def _paid_in_check() -> Check:
    """A payment that succeeded went to its invoice and its grant, and nowhere else."""
    paid = Payment.objects.filter(status=Payment.Status.SUCCEEDED)
    rows = paid.filter(Q(grant__isnull=False) | ~Q(amount_minor=F("invoice_minor")))
    wrong = [
        f"payment {pk}: {amount_text(minor_to_pico(amount - to_invoice, currency))} for the wallet, "
        f"grant of {amount_text(int(granted or 0))}"
        for pk, currency, amount, to_invoice, granted in rows.values_list(
            "pk", "currency", "amount_minor", "invoice_minor", "grant__amount_pico"
        )
        if minor_to_pico(amount - to_invoice, currency) != int(granted or 0)
    ]
    return exceptions("payments = invoices paid + credit granted (I5)", wrong, paid.count(), "payments")


def _sums(rows: Iterable[tuple[object, object]]) -> dict[object, int]:
    return {key: int(str(total)) for key, total in rows}
