"""The billing home: the month so far, whether the books prove themselves, and what waits for somebody."""

from datetime import UTC, timedelta
from typing import Any

from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone

from billing.console.invoices import totals_of
from billing.console.margin import months_begin
from billing.economics.report import outlook, report
from billing.models import Invoice, LedgerProof
from billing.reconciliation.close import checklist
from tenants.console import ConsoleRequest, platform_room

READ = "invoices:read"
LISTED = 8
PROOF_FRESH = timedelta(hours=2)
"""The proof runs every hour: an older one says that it does not."""


@platform_room(READ)
def billing_home(request: ConsoleRequest) -> HttpResponse:
    """Month to date, the ledger's proof, the closing list of the month before, drafts and overdue invoices."""
    now = timezone.now()
    first = months_begin(now)
    last_month = (first - timedelta(days=1)).date().replace(day=1)
    rows = Invoice.objects.visible_to(request.principal, READ).select_related("tenant", "legal_entity")
    today = now.astimezone(UTC).date()
    drafts = rows.filter(status=Invoice.Status.DRAFT, period_end__lte=now)
    overdue = rows.filter(status=Invoice.Status.OPEN, due_date__lt=today)
    proof = LedgerProof.objects.order_by("-at").first()
    context: dict[str, Any] = {
        "proof": proof,
        "is_proof_old": proof is not None and proof.at < now - PROOF_FRESH,
        "failing": [each for each in proof.checks if not each["ok"]] if proof else [],
        "checklist": checklist(month=last_month, now=now, suspense=None),
        "drafts": _first(drafts.order_by("period_end", "id")),
        "draft_count": drafts.count(),
        "overdue": _first(overdue.order_by("due_date", "id")),
        "overdue_totals": totals_of(overdue),
        "today": today,
        "month": first,
    }
    if request.principal.can("cost:read"):
        context["report"] = report(start=first, end=now, with_users=False)
        context["outlooks"] = outlook(as_of=now)
    return render(request, "billing/home.html", context)


def _first(rows: QuerySet[Invoice]) -> list[Invoice]:
    return list(rows[:LISTED])
