"""Console pages of the two-person rule: what waits, what it would change, and the decision."""

from uuid import UUID

from django.contrib import messages
from django.db import models
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from tenants import approvals
from tenants.console import ConsoleRequest, page_of
from tenants.errors import ApiError
from tenants.models import Proposal
from tenants.places import both_rooms, here
from tenants.trail.views import changes_of

READ, WRITE = "approvals:read", "approvals:write"
DECISIONS = {"approve": approvals.approve, "refuse": approvals.refuse, "withdraw": approvals.withdraw}


def _proposals(request: ConsoleRequest) -> models.QuerySet[Proposal]:
    rows = Proposal.objects.visible_to(request.principal, READ).select_related("tenant")
    return rows if request.tenant is None else rows.filter(tenant=request.tenant)


def _proposal(request: ConsoleRequest, proposal_id: UUID) -> Proposal:
    proposal = _proposals(request).filter(pk=proposal_id).first()
    if proposal is None:
        raise Http404
    return proposal


@both_rooms(READ)
def proposal_list(request: ConsoleRequest) -> HttpResponse:
    """What waits for a second person; `?state=` shows what became of others."""
    state = request.GET.get("state", "open")
    rows = _proposals(request)
    if state in Proposal.State.values:
        rows = rows.filter(state=state)
    context = {
        "page": page_of(rows, cursor=request.GET.get("cursor", "")),
        "state": state,
        "states": Proposal.State.choices,
        "kinds": sorted(approvals.kinds_on()),
    }
    return render(request, "tenants/proposal_list.html", context)


@both_rooms(READ)
def proposal_detail(request: ConsoleRequest, proposal_id: UUID) -> HttpResponse:
    """What it would change, by whom and why, and who may decide."""
    proposal = _proposal(request, proposal_id)
    is_mine = bool(approvals.people_behind(request.principal) & set(proposal.people))
    context = {
        "proposal": proposal,
        "changes": changes_of(proposal.before, proposal.after),
        "is_open": proposal.state == Proposal.State.OPEN and proposal.expires_at > timezone.now(),
        "is_mine": is_mine,
        "may_decide": not is_mine
        and all(request.principal.can(scope, proposal.tenant_id) for scope in (WRITE, proposal.scope)),
    }
    return render(request, "tenants/proposal_detail.html", context)


@both_rooms(write=READ)
def proposal_decide(request: ConsoleRequest, proposal_id: UUID) -> HttpResponse:
    """Approve, refuse or withdraw; the verb says who may."""
    proposal = _proposal(request, proposal_id)
    decide = DECISIONS.get(request.POST.get("decision", ""))
    if decide is None:
        messages.error(request, "Choose what to do.")
    else:
        try:
            decided = decide(proposal=proposal, actor=request.principal, now=timezone.now())
        except ApiError as error:
            messages.error(request, error.message)
        else:
            messages.success(request, f"{decided.get_state_display()}.")
    return redirect(here(request, "proposal_detail", proposal_id=proposal.pk))
