"""Telling those who may decide that a proposal waits.

Must never tell what it would change: mails are read elsewhere.
"""

from datetime import datetime

from django.conf import settings
from django.core.mail import send_mail
from django.db.models import Q
from django.urls import reverse

from tenants.authentication import principal_of
from tenants.models import Proposal, User

BATCH = 50


def deciders(proposal: Proposal) -> list[str]:
    """Addresses of the people who may decide it: who holds both scopes there and does not stand behind it."""
    people = User.objects.filter(is_active=True).exclude(pk__in=proposal.people)
    if proposal.tenant_id is None:
        people = people.exclude(operator_role="")
    else:
        people = people.filter(Q(memberships__tenant_id=proposal.tenant_id) | ~Q(operator_role="")).distinct()
    scopes = ("approvals:write", proposal.scope)
    return [
        person.email
        for person in people.order_by("email")
        if all(principal_of(person).can(scope, proposal.tenant_id) for scope in scopes)
    ]


def tell(*, now: datetime) -> int:
    """Mail the deciders of proposals of which nobody was told, each of them once. Returns how many proposals.

    Marked before the mails leave: one that is lost is still on the page, one sent twice is a nuisance to many.
    Raises what the mail server raises.
    """
    told = 0
    waiting = Proposal.objects.filter(state=Proposal.State.OPEN, notified_at=None, expires_at__gt=now)
    for proposal in waiting.select_related("tenant").order_by("id")[:BATCH]:
        if not Proposal.objects.filter(pk=proposal.pk, notified_at=None).update(notified_at=now):
            continue
        for address in deciders(proposal):
            send_mail(
                f"{proposal.proposed_by_label} asks for your approval",
                f"{proposal.proposed_by_label} asks for {proposal.operation}"
                f"{f' in {proposal.tenant.name}' if proposal.tenant else ''}.\n"
                f"Nothing changes until somebody else approves it, by {proposal.expires_at:%d %B %Y}.\n\n"
                f"{settings.PUBLIC_URL}{_path(proposal)}\n",
                None,
                [address],
            )
        told += 1
    return told


def _path(proposal: Proposal) -> str:
    if proposal.tenant is None:
        return reverse("proposal_detail", kwargs={"proposal_id": proposal.pk})
    return reverse(
        "tenant_proposal_detail", kwargs={"tenant_slug": proposal.tenant.slug, "proposal_id": proposal.pk}
    )
