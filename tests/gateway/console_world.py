"""A small house with people, tenants, keys, providers and a day and a half of calls, for the console's tests.

Deterministic: the same seed gives the same calls. Written through the product's own verbs and ingest.
"""

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from uuid import UUID

from django.contrib.auth.hashers import make_password
from django.utils import timezone

from billing.models import Plan, PlanVersion, Subscription
from billing.usage.ingest import ingest
from billing.usage.records import UsageRecord
from gateway.logs.ingest import LogEntry, store
from gateway.models import Replay, RequestLog
from gateway.privacy import bindings as privacy
from gateway.privacy.models import PrivacyBinding
from gateway.replay import jobs
from routing import credentials, switches
from routing.experiments import rollouts, trials
from routing.experiments.models import Rollout
from routing.health.models import HealthSample, Incident
from routing.models import CostRate, Endpoint, Model, Provider, RoutingPolicy, RoutingPolicyVersion
from routing.policies import bindings, wordings
from tenants import approvals, encryption, invitations, keys
from tenants.ids import instant_of, uuid7
from tenants.models import (
    ApiKey,
    AuditEvent,
    AuditSink,
    CustomRole,
    Invitation,
    Membership,
    Proposal,
    ServiceAccount,
    SsoConnection,
    SsoDomain,
    Tenant,
    User,
)
from tenants.principal import SYSTEM, Principal
from tests.gateway import console_data, console_money

PASSWORD = "correct-horse-battery-staple"
MODELS = {  # slug: (owner, context, abilities, cost in, cost out, usual latency ms)
    "gpt-4o-mini": ("openai", 128_000, ["vision", "tools", "json_schema"], "0.15", "0.60", 640),
    "gpt-4o": ("openai", 128_000, ["vision", "tools", "json_schema"], "2.50", "10.00", 1250),
    "claude-sonnet-4": ("anthropic", 200_000, ["vision", "tools", "reasoning"], "3.00", "15.00", 1900),
    "gemini-2.5-flash": ("google", 1_048_576, ["vision", "tools", "reasoning"], "0.30", "2.50", 720),
    "mistral-small": ("mistral", 32_000, ["tools"], "0.10", "0.30", 480),
}
SERVED = (
    ("openai", "gpt-4o-mini", "us"),
    ("openai", "gpt-4o", "us"),
    ("azure-eu", "gpt-4o-mini", "eu"),
    ("azure-eu", "gpt-4o", "eu"),
    ("anthropic", "claude-sonnet-4", "us"),
    ("gemini", "gemini-2.5-flash", "eu"),
    ("vllm", "mistral-small", "eu"),
)
PROVIDERS = (
    ("openai", "OpenAI", "openai", "", "us"),
    ("azure-eu", "Azure West Europe", "azure_openai", "https://contoso.openai.azure.com", "eu"),
    ("anthropic", "Anthropic", "anthropic", "", "us"),
    ("gemini", "Google Gemini", "gemini", "", "eu"),
    ("vllm", "Own vLLM", "openai_compatible", "http://10.0.4.12:8000/v1", "eu"),
)


ATTEMPT_FIELDS = (
    "provider", "model", "region", "status", "error", "http_status", "latency_ms", "first_byte_ms",
    "cost_pico", "units", "cost_components",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """Handles to what a test clicks on."""

    operator: User
    clerk: User  # the operator's billing role
    owner: User  # of `acme`
    developer: User
    viewer: User
    stranger: User  # owner of `nordlicht`
    acme: Tenant
    nordlicht: Tenant
    fresh: Tenant  # no call yet, `owner` is its owner too
    key: ApiKey
    credential_id: UUID  # acme's own key at openai
    request_id: UUID  # a call of acme that failed over
    failed_id: UUID  # a call of acme that nobody served
    stranger_id: UUID  # a call of nordlicht
    account_id: UUID  # a service account of acme
    replay: Replay  # a finished what-if
    money: console_money.Money
    data: console_data.Data


@cache
def hashed_password():
    """One slow hash for all of them."""
    return make_password(PASSWORD)


def build(*, now: datetime, calls: int = 400, seed: int = 7) -> World:
    """Make it all. `calls` are spread over the last 36 hours, denser towards `now`."""
    people = {
        name: User.objects.create(
            email=f"{name}@example.com", password=hashed_password(), name=name.title(), **extra
        )
        for name, extra in (
            ("olga", {"operator_role": "owner"}),
            ("clara", {"operator_role": "billing"}),
            ("ada", {"timezone": "Europe/Berlin"}),
            ("dev", {}),
            ("vera", {}),
            ("stefan", {}),
        )
    }
    acme = Tenant.objects.create(slug="acme", name="Acme Robotics", timezone="Europe/Berlin")
    nordlicht = Tenant.objects.create(
        slug="nordlicht", name="Nordlicht Verlag", currency="EUR", region_policy=["eu"]
    )
    fresh = Tenant.objects.create(slug="fresh-foods", name="Fresh Foods")
    Tenant.objects.create(slug="late-payer", name="Late Payer Ltd", status=Tenant.Status.SUSPENDED)
    for tenant, name, role in (
        (acme, "ada", "owner"),
        (acme, "dev", "developer"),
        (acme, "vera", "viewer"),
        (nordlicht, "stefan", "owner"),
        (fresh, "ada", "owner"),
    ):
        Membership.objects.create(tenant=tenant, user=people[name], role=role)
    auditor = CustomRole.objects.create(
        tenant=acme, slug="auditor", name="Auditor", scopes=["usage:read", "tenants:read", "audit:read"]
    )
    account = ServiceAccount.objects.create(
        tenant=acme, name="Deployments", role=auditor.slug, custom_role=auditor
    )
    _plans(acme)
    _routes()
    _policies(acme)
    _sign_in(acme)
    _privacy(acme)
    _health(now)
    _trail(acme, people["dev"], now)
    production = _key(acme, "Production backend", limit_rpm=600)
    nightly = _key(acme, "Nightly batch", allowed_models=["gpt-4o-mini"])
    foreign = _key(nordlicht, "Redaktion")
    keys.revoke(key=_key(acme, "Old laptop"), actor=SYSTEM, now=now)
    credential = credentials.store(
        provider=Provider.objects.get(slug="openai"),
        tenant=acme,
        secret="sk-own-key-of-acme-0001",
        label="",
        base_url="",
        actor=SYSTEM,
    )
    request_id, failed_id, stranger_id = _calls(
        now=now,
        count=calls,
        dice=random.Random(seed),
        acme=(acme, (production, nightly)),
        other=(nordlicht, foreign),
    )
    ApiKey.objects.filter(pk=production.pk).update(last_used_at=now - timedelta(seconds=40))
    _experiments(now)
    _calls_of_last_month(acme, production, now)
    money = console_money.build(acme=acme, nordlicht=nordlicht, key=nightly, now=now)
    return World(
        operator=people["olga"],
        clerk=people["clara"],
        owner=people["ada"],
        developer=people["dev"],
        viewer=people["vera"],
        stranger=people["stefan"],
        acme=acme,
        nordlicht=nordlicht,
        fresh=fresh,
        key=production,
        credential_id=credential.id,
        request_id=request_id,
        failed_id=failed_id,
        stranger_id=stranger_id,
        account_id=account.id,
        replay=_replay(now),
        money=money,
        data=console_data.build(acme=acme, request_id=request_id, actor=SYSTEM, now=now),
    )


def _experiments(now):
    """An experiment with two hundred calls behind it, and a rollout at its second stage."""
    policy = RoutingPolicy.objects.get(slug="cheap-first")
    arms = [
        {"name": "as-is"},
        {"name": "larger", "targets": ["gpt-4o"]},
        {"name": "brief", "system_prompt": "Be brief.", "parameters": {"temperature": 0}},
    ]
    experiment = trials.create_experiment(
        slug="tone", name="A shorter tone", policy=policy, unit="user", arms=arms, actor=SYSTEM
    )
    trials.start(experiment=experiment, actor=SYSTEM, now=now - timedelta(days=2))
    for number, row in enumerate(RequestLog.objects.order_by("occurred_at")):
        RequestLog.objects.filter(occurred_at=row.occurred_at, request_id=row.request_id).update(
            experiment="tone", arm=arms[number % 3]["name"]
        )
    rollout = rollouts.begin_rollout(
        slug="go-careful",
        name="Careful by latency",
        policy=RoutingPolicy.objects.get(slug="eu-careful"),
        candidate={"strategy": "latency"},
        actor=SYSTEM,
        now=now - timedelta(hours=3),
    )
    candidate = {
        "n": 140, "successes": 139, "p95_ms": 910.0, "cost_pico": 81_000_000.0, "cost_currency": "USD",
        "json_asked": 20, "json_valid": 20, "scored": 0, "score": None,
    }  # fmt: skip
    figures = {
        "candidate": candidate,
        "control": {**candidate, "p95_ms": 1240.0, "cost_pico": 79_000_000.0},
        "gates": [
            {"gate": "max_success_drop", "limit": 0.01, "found": "0", "is_open": True},
            {"gate": "max_cost_ratio", "limit": 1.5, "found": None, "is_open": None},
        ],
    }
    reason = "140 calls passed every gate"
    rollouts.advance(
        rollout=rollout, reason=reason, figures=figures, actor=SYSTEM, now=now - timedelta(hours=2)
    )
    Rollout.objects.update(evaluated_at=now, evaluation={"reason": "31 of 100 calls measured", **figures})


def _trail(acme, developer, now):
    """A sink that fails and one that is new; a proposal of the operator's and one of acme's, each with a diff."""
    for tenant, target in (
        (None, "https://siem.example.com/tollhouse"),
        (acme, "https://hooks.example.com/audit"),
    ):
        state = {"failures": 3, "last_error": "The receiver answered 503."} if tenant else {}
        AuditSink.objects.create(
            tenant=tenant, name="SIEM", kind="webhook", target=target, next_at=now, delivered_at=now, **state
        )
    somebody = Principal(kind="user", id=developer.id, label=developer.email)
    rate = {"openai/gpt-4o/input": "2.50 USD per 1000000, rate 7"}
    for tenant, kind, operation, before, after in (
        (None, "prices", "cost_rate.open", rate, {"openai/gpt-4o/input": "2.00 USD per 1000000"}),
        (acme, "caps", "budget.update", {"limit": "100", "name": "All"}, {"limit": "900", "name": "All"}),
    ):
        draft = approvals.Draft(
            kind=kind, operation=operation, payload={"n": 1}, scope="budgets:write", object_type="budget",
            object_id="b-1", tenant=tenant, before=before, after=after,
        )  # fmt: skip
        approvals.propose(draft=draft, actor=somebody, now=now)


def _calls_of_last_month(acme, key, now):
    """A hundred calls of acme in the month before, priced by its plan: what an invoice has lines of."""
    dice = random.Random(11)
    version = PlanVersion.objects.get(plan__slug="scale-up")
    middle = console_money.month_before(now)
    records, entries = [], []
    for number in range(100):
        request_id = uuid7(int((middle - timedelta(hours=number)).timestamp() * 1000))
        made, entry = _call(request_id, acme, key, "ok", dice)
        records += [replace(each, plan_version_id=version.pk, feature=entry.feature) for each in made]
        entries.append(entry)
    ingest(records, recorded_at=now - timedelta(days=2))
    store(entries, now=now)


def _replay(now):
    """A finished what-if over all calls."""
    row = jobs.ask(
        candidate={"policy": "cheap-first", "wording": {"strategy": "latency"}},
        start=now - timedelta(days=2),
        end=now,
        tenants=[],
        is_whole=True,
        actor=SYSTEM,
    )
    assert jobs.run_next()
    return row


def trail_ids(acme, *, is_platform):
    """What the paths of the audit trail and of proposals leave open."""
    tenant = None if is_platform else acme
    return {
        "event_id": AuditEvent.objects.filter(tenant=tenant).first().id,
        "sink_id": AuditSink.objects.get(tenant=tenant).id,
        "proposal_id": Proposal.objects.get(tenant=tenant).id,
    }


def privacy_ids(acme, *, is_platform):
    """What the paths of data protection leave open."""
    row = PrivacyBinding.objects.get(tenant=None if is_platform else acme)
    return {"profile_id": row.profile_id, "privacy_binding_id": row.id}


def _privacy(acme):
    """A profile of the operator's that rules everybody, and one of acme's with a pattern and guardrails."""
    everybody = privacy.create_profile(
        slug="secrets", tenant=None, values={"name": "No keys", "actions": {"secret": "block"}}, actor=SYSTEM
    )
    privacy.bind(profile=everybody, bound_tenant=None, actor=SYSTEM)
    values = {
        "name": "Customers",
        "actions": {"email": "tokenize", "card": "block", "custom:ticket": "redact"},
        "custom_patterns": [{"name": "ticket", "pattern": "TKT-[0-9]{6}"}],
        "vault_days": 30,
        "guardrails": [
            {"name": "short", "kind": "max_length", "max_characters": 100_000},
            {"name": "decent", "kind": "banned_topics", "topics": ["gambling"], "stage": "after"},
        ],
    }
    own = privacy.create_profile(slug="customers", tenant=acme, values=values, actor=SYSTEM)
    privacy.bind(profile=own, bound_tenant=acme, feature="support-bot", actor=SYSTEM)


def add_calls(world, *, now, count):
    """That many more successful calls of acme, in the last few seconds."""
    dice = random.Random(count)
    records, entries = [], []
    for number in range(count):
        request_id = uuid7(int(now.timestamp() * 1000) - number)
        made, entry = _call(request_id, world.acme, world.key, "ok", dice)
        records += made
        entries.append(entry)
    ingest(records, recorded_at=now)
    store(entries, now=now)


def _key(tenant, name, **rights):
    return keys.issue(
        tenant=tenant, name=name, scopes=["inference:*", "models:read"], actor=SYSTEM, **rights
    ).key


def _plans(acme):
    plan = Plan.objects.create(slug="scale-up", name="Scale-up")
    version = PlanVersion.objects.create(
        plan=plan,
        number=1,
        base_amount="49",
        charges=[{"model": "cost_plus", "markup_percent": "20"}],
        limits={"limit_rpm": 1200, "max_concurrent": 64},
    )
    Subscription.objects.create(tenant=acme, plan_version=version, start=datetime(2026, 9, 1, tzinfo=UTC))


def _routes():
    providers = {
        slug: Provider.objects.create(slug=slug, name=name, kind=kind, base_url=base_url, region=region)
        for slug, name, kind, base_url, region in PROVIDERS
    }
    models = {
        slug: Model.objects.create(
            slug=slug,
            name=slug,
            owned_by=owner,
            operations=["chat"],
            capabilities=abilities,
            context_window=context,
        )
        for slug, (owner, context, abilities, *_) in MODELS.items()
    }
    for provider, model, region in SERVED:
        Endpoint.objects.create(
            provider=providers[provider], model=models[model], provider_model=model, region=region
        )
        if provider == "vllm":
            continue  # unpriced: nobody told us what our own hardware costs
        for component, price in zip(("input", "output"), MODELS[model][3:5], strict=True):
            CostRate.objects.create(
                provider=provider,
                provider_model=model,
                component=component,
                price=price,
                effective_from=datetime(2026, 1, 1, tzinfo=UTC),
            )
    policy = RoutingPolicy.objects.create(slug="cheap-first", name="The cheapest that can")
    RoutingPolicyVersion.objects.create(policy=policy, number=1, strategy="cost")


def _sign_in(acme):
    """A connection with a confirmed and a claimed domain (its host is never asked), and two invitations."""
    connection = SsoConnection(
        tenant=acme,
        name="Acme Entra ID",
        issuer="https://login.example.com/acme",
        client_id="7d1c-tollhouse",
        default_role="developer",
    )
    connection.client_secret = encryption.seal(
        "a-client-secret", tenant=acme, context=f"{connection._meta.db_table}|{connection.pk}|client_secret"
    )
    connection.save()
    now = timezone.now()
    for domain, confirmed_at in (("acme.example", now), ("acme-robotics.example", None)):
        SsoDomain.objects.create(tenant=acme, connection=connection, domain=domain, confirmed_at=confirmed_at)
    invitations.invite(tenant=acme, email="grace@acme.example", role="admin", actor=SYSTEM, now=now)
    invitations.invite(
        tenant=acme, email="late@acme.example", role="viewer", actor=SYSTEM, now=now - timedelta(days=9)
    )


def sign_in_ids(acme):
    """What the paths of sign-in pages leave open. Nobody has the session."""
    return {
        "connection_id": SsoConnection.objects.get(tenant=acme).id,
        "invitation_id": Invitation.objects.get(tenant=acme, email="grace@acme.example").id,
        "session_id": 1,
    }


def _policies(acme):
    """A policy with three versions that rules a feature, a tenant and a plan; a switch thrown and restored."""
    wording = wordings.Wording(
        "cost", targets=["gpt-4o-mini", {"model": "gpt-4o", "provider": "azure-eu", "weight": 3}]
    )
    policy = wordings.create_policy(
        slug="eu-careful", name="EU alone", tenant=None, is_enabled=True, wording=wording, actor=SYSTEM
    )
    for changed in (
        replace(wording, constraints={"regions": ["eu"], "max_cost": "0.05", "data": {"training": "deny"}}),
        replace(
            wording,
            strategy="slo",
            fallback=["mistral-small"],
            constraints={"regions": ["eu"]},
            conduct={"recovery": "buffered", "hold_back_tokens": 40, "hedge_after_ms": 0},
        ),
    ):
        wordings.change_policy(policy=policy, name="EU alone", is_enabled=True, wording=changed, actor=SYSTEM)
    promise = {"slo_p95_ms": 2000, "slo_success": Decimal("0.999"), "slo_max_cost": Decimal("0.01")}
    bindings.add_feature(
        slug="search", tenant=None, values={"policy": policy, "name": "Search", **promise}, actor=SYSTEM
    )
    bindings.add_feature(slug="summaries", tenant=acme, values={}, actor=SYSTEM)
    bindings.bind(policy=policy, tenant=None, plan="scale-up", actor=SYSTEM)
    switch = switches.throw(
        kind="provider", target="vllm", reason="It answers with others' text.", actor=SYSTEM
    )
    switches.restore(switch=switch, actor=SYSTEM)


def _health(now):
    """Forty days with two incidents, one of which goes on, and a day of samples with a slow hour."""
    Endpoint.objects.update(created_at=now - timedelta(days=40))
    first, second = Endpoint.objects.filter(provider__slug="openai").order_by("id")
    for endpoint, began, ended, reason in (
        (first, timedelta(days=12, hours=3), timedelta(days=12), "5 failures in a row"),
        (second, timedelta(minutes=20), None, "11 of 20 calls failed within 10 s"),
    ):
        Incident.objects.create(
            endpoint=endpoint,
            opened_at=now - began,
            closed_at=None if ended is None else now - ended,
            reason=reason,
            opened_by="calls",
            closed_by="" if ended is None else "calls",
        )
    HealthSample.objects.bulk_create(
        HealthSample(
            endpoint=first,
            at=now - timedelta(minutes=5 * number),
            attempts=40,
            failed=1 if number % 7 == 0 else 0,
            errors={"timeout": 1} if number % 7 == 0 else {},
            first_byte_p50_ms=300 + number,
            first_byte_p95_ms=3000 if 60 < number < 72 else 900,
            latency_p95_ms=4000,
            circuit="closed",
        )
        for number in range(1, 280)
    )


def _calls(*, now, count, dice, acme, other):
    records, entries = [], []
    marks = {}
    version = PlanVersion.objects.get(plan__slug="scale-up")
    for number in range(count):
        age_s = 36 * 3600 * dice.random() ** 3 + 2
        request_id = uuid7(int((now.timestamp() - age_s) * 1000))
        tenant, key = (acme[0], dice.choice(acme[1])) if dice.random() < 0.8 else other
        kind = {0: "failover", 1: "dead"}.get(number) or dice.choices(
            ("ok", "failover", "dead", "refused", "left"), (88, 5, 2, 3, 2)
        )[0]
        if number < 2:
            tenant, key = acme[0], acme[1][0]
        call = _call(request_id, tenant, key, kind, dice)
        if tenant == acme[0]:
            records += [replace(each, plan_version_id=version.pk) for each in call[0]]
        else:
            records += call[0]
        entries.append(call[1])
        marks.setdefault((tenant.slug, kind), request_id)
    ingest(records, recorded_at=now)
    store(entries, now=now)
    return marks[acme[0].slug, "failover"], marks[acme[0].slug, "dead"], marks[other[0].slug, "ok"]


def _call(request_id, tenant, key, kind, dice):
    provider, model, region = dice.choices(SERVED, (30, 14, 22, 10, 12, 16, 2))[0]
    _, _, _, cost_in, cost_out, usual_ms = MODELS[model]
    tokens_in, tokens_out = dice.randrange(60, 4200), dice.randrange(12, 900)
    is_stream = dice.random() < 0.6
    took = int(usual_ms * dice.lognormvariate(0, 0.45))
    first = int(took * 0.4) if is_stream else None
    is_priced = provider != "vllm"
    pico = {
        "input": tokens_in * int(float(cost_in) * 1_000_000),
        "output": tokens_out * int(float(cost_out) * 1_000_000),
    }
    cost = sum(pico.values()) if is_priced else None
    price = cost * 12 // 10 if cost is not None else None
    attempts = []
    if kind in ("failover", "dead"):
        attempts.append(("openai", "gpt-4o", "us", "error", "rate_limited", 429, 184, None, 0, {}, {}))
    if kind == "dead":
        attempts.append(("azure-eu", "gpt-4o", "eu", "error", "server_error", 502, 2210, None, 0, {}, {}))
    if kind in ("ok", "failover", "left"):
        status = "cancelled" if kind == "left" else "ok"
        units = {"input": tokens_in, "output": tokens_out}
        attempts.append(
            (provider, model, region, status, "", 200, took, first, cost, units, pico if is_priced else None)
        )
    http, code, message = {
        "dead": (502, "provider_unavailable", "All targets failed: openai 429, azure-eu 502."),
        "refused": (429, "rate_limit_exceeded", "600 requests per minute are used up. Retry in 12 s."),
        "left": (499, "", ""),
    }.get(kind, (200, "", ""))
    request_model = dice.choice(("policy:cheap-first", model))
    policy = "cheap-first@1" if request_model.startswith("policy:") else ""
    moment = instant_of(request_id)
    records = [
        UsageRecord(
            occurred_at=moment,
            request_id=request_id,
            attempt=number,
            tenant_id=tenant.id,
            api_key_id=key.id,
            plan_version_id=UUID(int=3),
            operation="chat",
            request_model=request_model,
            model=row[1],
            provider=row[0],
            provider_model=row[1],
            endpoint_id=UUID(int=4),
            region=row[2],
            policy=policy,
            status=row[3],
            error_type=row[4],
            is_final=number == len(attempts),
            is_stream=is_stream,
            usage_source="provider",
            input_tokens=row[9].get("input", 0),
            output_tokens=row[9].get("output", 0),
            cost_pico=row[8],
            cost_currency="USD",
            price_pico=price if row[9] else 0,
            price_currency="USD",
            cost_components=row[10] or None,
            latency_ms=row[6],
            first_byte_ms=row[7],
        )
        for number, row in enumerate(attempts, 1)
    ]
    last = attempts[-1] if attempts else None
    route = {
        "strategy": "cost" if policy else "weighted",
        "kept": [
            {
                "provider": "openai",
                "model": "gpt-4o",
                "region": "us",
                "score": 0.0021,
                "reason": "0.0021 USD for this request",
            },
            {
                "provider": provider,
                "model": model,
                "region": region,
                "score": 0.0024,
                "reason": "0.0024 USD for this request",
            },
        ],
        "dropped": [
            {
                "provider": "vllm",
                "model": "mistral-small",
                "reason": "context window 32000 is too small for 41210 tokens",
            },
            {"provider": "gemini", "model": "gemini-2.5-flash", "reason": "cannot: logprobs"},
        ],
    }
    entry = LogEntry(
        occurred_at=moment,
        request_id=request_id,
        tenant_id=tenant.id,
        api_key_id=key.id,
        operation="chat",
        request_model=request_model,
        model=last[1] if last else "",
        provider=last[0] if last else "",
        region=last[2] if last else "",
        policy=policy,
        status=http,
        error_code=code,
        error_message=message,
        finish_reason="stop" if http == 200 else "",
        is_stream=is_stream,
        feature=dice.choice(("search", "support-bot", "")),
        tags={"team": dice.choice(("core", "growth"))},
        input_tokens=tokens_in if last and last[9] else 0,
        output_tokens=tokens_out if last and last[9] else 0,
        usage_source="provider",
        cost_pico=last[8] if last else 0,
        price_pico=price if last and last[9] else 0,
        cost_currency="USD",
        price_currency="USD",
        latency_ms=sum(row[6] for row in attempts) + 4,
        first_byte_ms=last[7] if last else None,
        attempts=[
            dict(
                zip(
                    ATTEMPT_FIELDS,
                    row,
                    strict=True,
                )
            )
            for row in attempts
        ],
        route={} if kind == "refused" else route,
    )
    return records, entry
