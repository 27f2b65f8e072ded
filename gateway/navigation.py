"""What the console's frame shows around a page: the rooms this principal may enter, the tenants to switch to.

Reads declarations and scopes only; a link that is hidden here is still refused by its view.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from django.http import HttpRequest
from django.urls import reverse

from tenants.authentication import principal_of
from tenants.models import Tenant, User
from tenants.principal import Principal

SWITCHER_SIZE = 8
THEMES = ("light", "dark")


@dataclass(frozen=True, slots=True)
class Entry:
    """One room: the scope that opens it, its URL name, and the vendored icon."""

    label: str
    scope: str
    url_name: str
    icon: str


@dataclass(frozen=True, slots=True)
class Link:
    """An entry as this page shows it."""

    label: str
    url: str
    icon: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything the base template needs beside the page itself."""

    links: Sequence[Link]
    tenants: Sequence[Tenant]
    has_more_tenants: bool
    tenant: Tenant | None
    is_operator: bool
    is_guest: bool  # an operator inside a tenant of which they are no member
    scopes: "Scopes"
    home_url: str


PLATFORM = (
    Entry(label="Overview", scope="usage:read", url_name="platform_home", icon="layout-dashboard"),
    Entry(label="Requests", scope="requests:read", url_name="platform_requests", icon="list-tree"),
    Entry(label="What-if", scope="cost:read", url_name="replay_list", icon="rewind"),
    Entry(label="Policies", scope="policies:read", url_name="policy_list", icon="route"),
    Entry(label="Features", scope="policies:read", url_name="feature_list", icon="puzzle"),
    Entry(label="Experiments", scope="policies:read", url_name="experiment_list", icon="flask-conical"),
    Entry(label="Data protection", scope="privacy:read", url_name="privacy_list", icon="lock-keyhole"),
    Entry(label="Tenants", scope="tenants:read", url_name="tenant_list", icon="building-2"),
    Entry(label="API keys", scope="keys:read", url_name="platform_key_list", icon="key-round"),
    Entry(label="Budgets", scope="budgets:read", url_name="budget_list", icon="gauge"),
    Entry(label="Billing", scope="invoices:read", url_name="billing_home", icon="receipt-text"),
    Entry(label="Providers", scope="providers:read", url_name="provider_list", icon="plug"),
    Entry(label="Health", scope="providers:read", url_name="health_list", icon="activity"),
    Entry(label="Models", scope="providers:read", url_name="model_list", icon="boxes"),
    Entry(label="Deletions", scope="retention:read", url_name="certificate_list", icon="trash-2"),
    Entry(label="Kill switches", scope="providers:read", url_name="kill_switch_list", icon="ban"),
    Entry(label="Encryption", scope="credentials:read", url_name="encryption", icon="lock-keyhole"),
    Entry(label="Audit", scope="audit:read", url_name="audit_list", icon="history"),
    Entry(label="Approvals", scope="approvals:read", url_name="proposal_list", icon="stamp"),
)
TENANT = (
    Entry(label="Overview", scope="usage:read", url_name="tenant_home", icon="layout-dashboard"),
    Entry(label="Requests", scope="requests:read", url_name="tenant_requests", icon="list-tree"),
    Entry(label="API keys", scope="keys:read", url_name="key_list", icon="key-round"),
    Entry(label="Models", scope="models:read", url_name="tenant_models", icon="boxes"),
    Entry(label="Provider keys", scope="credentials:read", url_name="credential_list", icon="plug"),
    Entry(label="Budgets", scope="budgets:read", url_name="tenant_budget_list", icon="gauge"),
    Entry(label="Billing", scope="invoices:read", url_name="tenant_invoice_list", icon="receipt-text"),
    Entry(label="Members", scope="members:read", url_name="member_list", icon="users"),
    Entry(label="Roles", scope="roles:read", url_name="role_list", icon="lock-keyhole"),
    Entry(
        label="Service accounts",
        scope="members:read",
        url_name="service_account_list",
        icon="circle-user-round",
    ),
    Entry(label="Audit", scope="audit:read", url_name="tenant_audit_list", icon="history"),
    Entry(label="Approvals", scope="approvals:read", url_name="tenant_proposal_list", icon="stamp"),
    Entry(label="Settings", scope="tenants:read", url_name="tenant_settings", icon="settings"),
)


@dataclass(frozen=True, slots=True)
class Scopes:
    """Lets a template ask `{% if scopes.keys_write %}` in the tenant (or on the platform) it shows."""

    principal: Principal
    tenant: Tenant | None

    def __getitem__(self, name: str) -> bool:
        area, _, verb = name.partition("_")
        return self.principal.can(f"{area}:{verb}", self.tenant.id if self.tenant else None)


def frame_of(request: HttpRequest) -> Frame | None:
    """The frame around this request's page; None while nobody is signed in."""
    user = getattr(request, "user", None)
    if not isinstance(user, User):
        return None
    principal: Principal = getattr(request, "principal", None) or principal_of(user)
    tenant: Tenant | None = getattr(request, "tenant", None)
    tenants = _tenants(principal)
    tenant_id = tenant.id if tenant else None
    entries: Sequence[Entry] = TENANT if tenant else PLATFORM if principal.is_operator else ()
    arguments = {"tenant_slug": tenant.slug} if tenant else {}
    urls = {
        entry: reverse(entry.url_name, kwargs=arguments)
        for entry in entries
        if principal.can(entry.scope, tenant_id)
    }
    current = max((url for url in urls.values() if request.path.startswith(url)), key=len, default="")
    return Frame(
        links=[Link(entry.label, url, entry.icon, is_current=url == current) for entry, url in urls.items()],
        tenants=tenants[:SWITCHER_SIZE],
        has_more_tenants=len(tenants) > SWITCHER_SIZE,
        tenant=tenant,
        is_operator=principal.is_operator,
        is_guest=tenant is not None and tenant.id not in principal.tenant_scopes,
        scopes=Scopes(principal, tenant),
        home_url=reverse("home"),
    )


def _tenants(principal: Principal) -> Sequence[Tenant]:
    visible = Tenant.objects.visible_to(principal, "tenants:read").order_by("name")
    return list(visible[: SWITCHER_SIZE + 1])


def theme_of(request: HttpRequest) -> str:
    """The theme the person chose; empty follows the system."""
    chosen = request.COOKIES.get("theme", "")
    return chosen if chosen in THEMES else ""
