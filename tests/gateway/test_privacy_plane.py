"""Personal data on a real gateway: a provider that remembers every byte sees tokens, the caller its own words again."""

import json
import logging
import threading
import time
from contextlib import contextmanager

import pytest
import redis
from django.conf import settings
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from benchmarks.walls import add_policy, add_provider
from billing.models import Budget, UsageEvent
from gateway.models import RequestLog
from gateway.privacy import bindings, vault
from gateway.privacy.models import PrivacyBinding
from gateway.state import process as state
from gateway.state.limits import OPEN, STREAM
from routing.experiments import shadows
from routing.models import Model, RoutingPolicy
from tenants import keys, versions, webhooks
from tenants.errors import ApiError
from tenants.models import AuditEvent, Tenant
from tenants.principal import SYSTEM
from tests.fakes.echo_provider import echo
from tests.fakes.http_server import reply, serve
from tests.gateway import plane as planes

db, drain = planes.db, planes.drain

KINDS = ("email", "phone", "card", "iban", "national_id", "ip_address", "secret")
ALL = dict.fromkeys(KINDS, "tokenize")
MODELS = ("echo", "echo-b", "fail", "late", "cut", "cut-held", "refuse", "mirror")
LIMITS = {"first_byte_timeout_s": 10, "stall_timeout_s": 10, "total_timeout_s": 20}


@pytest.fixture(scope="module")
def provider():
    with echo() as started:
        yield started


@pytest.fixture(scope="module")
def demo(db, provider):
    for demo in planes.rows(db):
        with transaction.atomic():
            versions.bump("routing")
            add_provider("echo-one", provider.url, MODELS, **LIMITS)
            Model.objects.filter(slug__in=MODELS).update(
                operations=["chat", "completions", "embeddings"], capabilities=["tools", "json_schema"]
            )
            add_policy("over", ["fail", "echo"])
            add_policy("hedged", ["late", "echo-b"], hedge_after_ms=50)
            add_policy("mirrored", ["echo"])
            add_policy("go-on", ["cut", "echo"], recovery="continue")
            add_policy("buffered", ["cut", "echo"], recovery="buffered")
        shadows.set_shadow(
            policy=RoutingPolicy.objects.get(slug="mirrored"),
            wording={"share": "0.5", "targets": ["mirror"]},
            actor=SYSTEM,
        )
        acme = Tenant.objects.get(slug="acme")
        rule(acme, "all", actions={**ALL, "end_user": "tokenize"}, vault_days=7)
        yield demo


@pytest.fixture(scope="module")
def plane(demo, tmp_path_factory):
    with planes.serving(
        demo, tmp_path_factory.mktemp("data"), TOLLHOUSE_EGRESS_ALLOWED_HOSTS=["127.0.0.1"]
    ) as started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def draining(plane):
    """Counters are made from the ledger, which must follow."""
    over = threading.Event()

    def work():
        while not over.is_set():
            drain()
        connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    yield
    over.set()
    worker.join()


@pytest.fixture(autouse=True)
def forgetting(provider):
    provider.received.clear()
    provider.answer, provider.piece = None, 5


def rule(tenant, slug, *, bound=None, feature="", policy="", **values):
    """A profile of the tenant's (None: the operator's), bound to it or to `bound`."""
    profile = bindings.create_profile(slug=slug, tenant=tenant, values=values, actor=SYSTEM)
    bindings.bind(profile=profile, bound_tenant=bound or tenant, feature=feature, policy=policy, actor=SYSTEM)
    return profile


@contextmanager
def ruled(tenant, slug, **options):
    """A profile in force for a while, known to the worker."""
    profile = rule(tenant, slug, **options)
    caught_up()
    try:
        yield profile
    finally:
        for row in PrivacyBinding.objects.filter(profile=profile):
            bindings.unbind(binding=row, actor=SYSTEM)
        bindings.remove_profile(profile=profile, actor=SYSTEM)
        caught_up()


def caught_up():
    """The worker knows the configuration as it is now."""
    wanted = versions.current()
    while any(state.current().snapshot.versions[name] < version for name, version in wanted.items()):
        time.sleep(0.01)


def ask(plane, text="Hello", *, model="echo", key=None, path="chat/completions", headers=None, **more):
    body = {"model": model, **more}
    if path == "chat/completions":
        body.setdefault("messages", [{"role": "user", "content": text}])
    return plane.http.post(
        f"{plane.url}/v1/{path}",
        headers={"authorization": f"Bearer {key or plane.key}", **(headers or {})},
        json=body,
    )


def content(answer):
    return answer.json()["choices"][0]["message"]["content"]


def events(answer):
    return [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]


def streamed(answer):
    return "".join(
        (choice["delta"].get("content") or "")
        for event in events(answer)
        for choice in event.get("choices", ())
    )


def settled():
    """Every call has ended, mirrored ones too, and is in the ledger."""
    while state.current().shadows.in_flight or state.current().live:
        time.sleep(0.01)
    with redis.Redis.from_url(settings.REDIS_URL) as store:
        while store.hlen(OPEN) or store.xlen(STREAM):
            time.sleep(0.02)


# ------------------------------------------------------------------ there and back


def test_a_provider_sees_tokens_and_the_caller_its_own_words(plane, provider):
    answer = ask(plane, "Write to anna.one@planted.example, and to bo.two@planted.example, please.")
    assert answer.status_code == 200, answer.text
    assert content(answer) == "Write to anna.one@planted.example, and to bo.two@planted.example, please."
    assert answer.headers["x-tollhouse-redacted"] == "2"
    assert not provider.heard("planted.example")
    assert provider.received[0].count(b"<EMAIL_") == 2


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_a_stream_is_restored_across_the_borders_of_its_chunks(plane, provider, size):
    provider.piece = size
    text = "Write to anna.three@planted.example and bo@planted.example"
    answer = ask(plane, text, stream=True, stream_options={"include_usage": True})
    assert streamed(answer) == text
    assert answer.text.endswith("data: [DONE]\n\n")
    assert events(answer)[-1]["usage"]["tollhouse"]["redacted"] == 2
    assert answer.headers["x-tollhouse-redacted"] == "2"
    assert not provider.heard("planted.example")


@pytest.mark.parametrize("stream", [False, True])
def test_tool_arguments_are_restored_as_json(plane, provider, stream):
    tool = {"type": "function", "function": {"name": "send", "parameters": {"type": "object"}}}
    text = "to “anna.four@planted.example”"
    answer = ask(plane, text, tools=[tool], stream=stream)
    if stream:
        calls = [
            call
            for event in events(answer)
            for choice in event.get("choices", ())
            for call in choice["delta"].get("tool_calls", ())
        ]
        arguments = "".join(call["function"]["arguments"] for call in calls)
    else:
        arguments = answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"to": text}
    assert not provider.heard("planted.example")


def test_a_text_that_looks_like_a_token_stays_what_it_is(plane):
    text = "<EMAIL_22222222> and anna.five@planted.example"
    assert content(ask(plane, text)) == text


def test_a_refusal_in_a_providers_words_is_restored_and_logged_with_tokens(plane, provider):
    answer = ask(plane, "about anna.six@planted.example", model="refuse")
    assert answer.status_code == 400
    assert "anna.six@planted.example" in answer.json()["error"]["message"]
    settled()
    row = RequestLog.objects.get(request_id=answer.headers["x-request-id"])
    assert "planted" not in row.error_message
    assert "<EMAIL_" in row.error_message


@pytest.mark.parametrize("policy", ["go-on", "buffered"])
def test_a_stream_that_breaks_is_mended_with_tokens_and_restored(plane, provider, policy):
    text = "one two three anna.seven@planted.example four five six seven"
    answer = ask(plane, text, model=f"policy:{policy}", stream=True)
    assert answer.text.endswith("data: [DONE]\n\n")
    assert "anna.seven@planted.example" in streamed(answer)
    assert "<EMAIL_" not in answer.text
    assert len(provider.received) == 2
    assert not provider.heard("planted.example")


def test_a_call_that_fails_over_and_one_that_is_hedged_send_tokens_everywhere(plane, provider):
    for policy in ("over", "hedged"):
        answer = ask(plane, f"{policy} anna.eight@planted.example", model=f"policy:{policy}")
        assert content(answer) == f"{policy} anna.eight@planted.example"
    assert len(provider.received) >= 3
    assert not provider.heard("planted.example")


# ------------------------------------------------------------------ nowhere in clear


PLANTED = (
    "sys.a@planted.example",
    "user.b@planted.example",
    "part.c@planted.example",
    "args.d@planted.example",
    "tool.e@planted.example",
    "name.f@planted.example",
    "meta.g@planted.example",
    "embed.h@planted.example",
    "head.i@planted.example",
    "tag.j@planted.example",
    "said.k@planted.example",
    "prompt.l@planted.example",
    "4111 1111 1111 1111",
    "4111111111111111",
    "DE89370400440532013000",
    "DE89 3704 0044 0532 0130 00",
    "203.0.113.77",
    "+49 30 901820345",
)


def test_nothing_that_was_planted_is_anywhere_in_clear(plane, provider, caplog, tmp_path_factory):
    caplog.set_level(logging.DEBUG)
    messages = [
        {"role": "system", "content": "You write for sys.a@planted.example."},
        {"role": "user", "content": "user.b@planted.example, 4111 1111 1111 1111 or 4111111111111111"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "part.c@planted.example DE89370400440532013000"}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "send", "arguments": '{"to": "args.d@planted.example"}'},
                }
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "call_1",
            "content": '{"from": "tool.e@planted.example", "iban": "DE89 3704 0044 0532 0130 00"}',
        },
        {"role": "user", "content": "call +49 30 901820345 from 203.0.113.77"},
    ]
    more = {
        "messages": messages,
        "user": "name.f@planted.example",
        "metadata": {"who": "meta.g@planted.example"},
        "headers": {
            "x-tollhouse-user": "head.i@planted.example",
            "x-tollhouse-tags": "who=tag.j@planted.example",
        },
    }
    asked = [
        ask(plane, model=model, stream=stream, **more)
        for model in ("echo", "policy:over", "policy:hedged", *["policy:mirrored"] * 8, "policy:go-on")
        for stream in (False, True)
    ]
    asked.append(ask(plane, path="embeddings", input=["for embed.h@planted.example"], model="echo"))
    asked.append(ask(plane, path="completions", prompt="for prompt.l@planted.example", model="echo"))
    assert [answer.status_code for answer in asked] == [200] * len(asked), [a.text for a in asked]
    assert "prompt.l@planted.example" in asked[-1].json()["choices"][0]["text"]
    feedback = plane.http.post(
        f"{plane.url}/v1/feedback",
        headers={"authorization": f"Bearer {plane.key}"},
        json={
            "request_id": ask_and_settle(plane).headers["x-request-id"],
            "score": 1,
            "comment": "said.k@planted.example helped",
        },
    )
    assert feedback.status_code == 201
    assert feedback.json()["comment"].startswith("<EMAIL_")
    settled()
    assert UsageEvent.objects.filter(kind="shadow").exists()
    assert not [text for text in PLANTED if provider.heard(text)]
    for place, held in (
        ("redis", in_redis()),
        ("postgres", in_postgres()),
        ("log", caplog.text),
        ("journal", in_files(settings.TOLLHOUSE_DATA)),
    ):
        assert not [text for text in PLANTED if text in held], place
    assert "<EMAIL_" in in_postgres()  # what was searched does hold the calls


def ask_and_settle(plane):
    answer = ask(plane)
    settled()
    return answer


def in_redis():
    """Everything that Redis holds, as text."""
    held = []
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        for name in client.scan_iter("*"):
            read = {
                b"string": client.get,
                b"hash": client.hgetall,
                b"set": client.smembers,
                b"zset": lambda key: client.zrange(key, 0, -1),
                b"list": lambda key: client.lrange(key, 0, -1),
                b"stream": client.xrange,
            }[client.type(name)]
            held.append(f"{name!r} {read(name)!r}")
    return "\n".join(held)


def in_postgres():
    """Every row of every table, as text."""
    held = []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT quote_ident(relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        for (table,) in cursor.fetchall():
            cursor.execute(f"SELECT row::text FROM {table} AS row")  # noqa: S608 - names of the catalogue
            held += [row for (row,) in cursor.fetchall()]
    return "\n".join(held)


def in_files(root):
    return "\n".join(each.read_bytes().decode("latin-1") for each in root.rglob("*") if each.is_file())


def test_the_end_user_is_known_by_one_token_everywhere(plane, provider):
    first, second = (ask(plane, user="kunde 4711", headers={"x-tollhouse-feature": "chat"}) for _ in range(2))
    settled()
    rows = RequestLog.objects.filter(
        request_id__in=[each.headers["x-request-id"] for each in (first, second)]
    )
    (name,) = set(rows.values_list("end_user", flat=True))
    assert name.startswith("<END_USER_")
    assert json.loads(provider.received[0])["user"] == name


def test_the_request_log_counts_the_findings_and_shows_none(plane):
    answer = ask(plane, "anna.nine@planted.example")
    settled()
    route = RequestLog.objects.get(request_id=answer.headers["x-request-id"]).route
    assert route["privacy"] == {
        "profiles": ["all"],
        "findings": {"email": 1},
        "unscanned": 0,
        "guardrails": [],
    }


# ------------------------------------------------------------------ whose rules


def test_another_tenants_calls_go_as_they_are(plane, provider):
    answer = ask(plane, "anna.ten@planted.example", key=plane.other_key)
    assert content(answer) == "anna.ten@planted.example"
    assert "x-tollhouse-redacted" not in answer.headers
    assert provider.heard("anna.ten@planted.example")


def test_a_kind_that_blocks_is_refused_without_its_text_and_nothing_is_sent(plane, provider):
    with ruled(Tenant.objects.get(slug="acme"), "blocker", feature="strict", actions={"email": "block"}):
        answer = ask(plane, "anna.eleven@planted.example", headers={"x-tollhouse-feature": "strict"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "guardrail_blocked", "messages")
        assert "email" in error["message"]
        assert "planted" not in answer.text
        assert provider.received == []
        assert ask(plane, "anna.eleven@planted.example").status_code == 200  # another feature


def test_the_operators_rule_cannot_be_softened_by_a_tenants(plane, provider):
    globex = Tenant.objects.get(slug="globex")
    loose = {
        "actions": {"email": "allow", "custom:all": "tokenize"},
        "custom_patterns": [{"name": "all", "pattern": "(?s).+"}],
    }
    with ruled(globex, "loose", **loose):
        text = "anna.twelve@planted.example"
        assert content(ask(plane, text, key=plane.other_key)) == text
        with ruled(None, "hidden", bound=globex, actions={"email": "redact"}):
            provider.received.clear()
            assert content(ask(plane, text, key=plane.other_key)) == "[EMAIL]"
            assert not provider.heard("planted")
        with ruled(None, "forbidden", actions={"email": "block"}):
            for key in (plane.key, plane.other_key):
                assert ask(plane, text, key=key).json()["error"]["code"] == "guardrail_blocked"


def test_rules_of_a_policy_reach_calls_that_a_throttle_sends_by_it(plane, provider):
    acme = Tenant.objects.get(slug="acme")
    add_policy("detour", ["echo-b"])
    Budget.objects.create(
        tenant=acme, name="tight", feature="tight", limit=1, measure="requests", window="total",
        mode="throttle", throttle_policy="detour",
    )  # fmt: skip
    with transaction.atomic():
        versions.bump("routing")
        versions.bump("billing")
    with ruled(acme, "at-detour", policy="detour", actions={"custom:code": "block"},
               custom_patterns=[{"name": "code", "pattern": "XJ-[0-9]+"}]):  # fmt: skip
        for _ in range(100):
            answer = ask(plane, "code XJ-12", headers={"x-tollhouse-feature": "tight"})
            if answer.status_code != 200:
                break
            time.sleep(0.05)
        assert answer.json()["error"]["code"] == "guardrail_blocked"


# ------------------------------------------------------------------ money


def test_the_hold_bounds_what_is_sent_when_tokens_are_longer(plane, provider):
    """Sixty short addresses grow by a multiple; the worst case of what is sent must have been held."""
    acme = Tenant.objects.get(slug="acme")
    budget = Budget.objects.create(
        tenant=acme, name="hard", feature="hard", limit="0.01", measure="cost", mode="hard", window="total"
    )
    with transaction.atomic():
        versions.bump("billing")
    caught_up()
    text = " ".join(f"a{number}@b.co" for number in range(60))
    before = time.monotonic()
    statuses = []
    while not statuses or (statuses[-1] == 200 and time.monotonic() - before < 60):
        answer = ask(plane, text, max_completion_tokens=7, headers={"x-tollhouse-feature": "hard"})
        statuses.append(answer.status_code)
    assert statuses[-1] == 402, answer.text
    settled()
    rows = UsageEvent.objects.filter(feature="hard")
    assert 0 < sum(row.cost_pico for row in rows) <= 10_000_000_000
    assert len(provider.received[0]) > len(text) * 1.5
    budget.delete()


# ------------------------------------------------------------------ the vault


def test_a_token_is_revealed_to_who_may_and_the_trail_says_why(plane, provider):
    ask(plane, "anna.vault@planted.example", user="vault-user")
    token = json.loads(provider.received[0])["messages"][0]["content"]
    acme = Tenant.objects.get(slug="acme")
    client = Client(headers={"authorization": f"Bearer {admin_key(acme)}"})
    url = "/api/v1/tenants/acme/privacy/reveal/"
    asked = {"token": token, "reason": "Ticket 12"}
    for _ in range(100):  # it is kept in the background
        shown = client.post(url, asked, content_type="application/json")
        if shown.status_code == 200:
            break
        time.sleep(0.02)
    assert shown.json() == {"token": token, "value": "anna.vault@planted.example"}
    event = AuditEvent.objects.filter(action="privacy_token.access").latest("at")
    assert (event.object_id, event.reason, event.tenant) == (token, "Ticket 12", acme)
    assert "planted" not in str(event.after)
    assert client.post(url, {"token": token}, content_type="application/json").status_code == 400
    unknown = client.post(url, asked | {"token": "<EMAIL_22222222>"}, content_type="application/json")
    assert unknown.status_code == 404
    name = json.loads(provider.received[0])["user"]
    assert vault.forget(tenant=acme, end_user=name) >= 2
    assert client.post(url, asked, content_type="application/json").status_code == 404


def admin_key(tenant):
    return keys.issue(tenant=tenant, name="privacy", scopes=("privacy:*",), actor=SYSTEM).text


# ------------------------------------------------------------------ guardrails


FEATURE = {"x-tollhouse-feature": "guarded"}


def rail(kind, **settings):
    return {"name": kind.replace("_", "-"), "kind": kind, **settings}


@contextmanager
def guarded(*rails):
    with ruled(
        Tenant.objects.get(slug="acme"), "rails", feature="guarded", guardrails=list(rails)
    ) as profile:
        yield profile


def refusal(answer):
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


@pytest.mark.parametrize(
    ("rule_", "bad", "good"),
    [
        (rail("max_length", max_characters=20), "x" * 21, "x" * 20),
        (
            rail("banned_topics", topics=["Élan vital", "gambling"]),
            "on ELAN\tVITAL, please",
            "elanvital gamblings",
        ),
        (rail("regex", pattern="(?i)project\\s+x[0-9]+"), "about Project X42", "about Project X"),
        (rail("regex", pattern="^Dear ", mode="require"), "Hello", "Dear all"),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused_before_anything_is_sent(plane, provider, rule_, bad, good):
    with guarded(rule_):
        answer = ask(plane, bad, headers=FEATURE)
        assert refusal(answer) == (400, "guardrail_blocked", rule_["name"])
        assert provider.received == []
        assert content(ask(plane, good, headers=FEATURE)) == good
    settled()
    row = RequestLog.objects.get(request_id=answer.headers["x-request-id"])
    assert (row.status, row.error_code, row.price_pico, row.attempts) == (400, "guardrail_blocked", 0, [])


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("rule_", "bad", "good"),
    [
        (rail("json_schema", schema=SCHEMA), '{"n": "one"}', '{"n": 1}'),
        (rail("max_length", stage="after", max_characters=20), "x" * 21, "x" * 20),
        (rail("banned_topics", stage="after", topics=["gambling"]), "go Gambling!", "go home"),
        (rail("regex", stage="after", pattern="[0-9]{4}"), "the code is 1234", "no code"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_breaks_a_rule_is_held_back_and_charged(plane, provider, rule_, bad, good, stream):
    with guarded(rule_):
        provider.answer = bad
        answer = ask(plane, headers=FEATURE, stream=stream)
        if stream:
            (*_, last) = events(answer)
            assert last["error"]["code"] == "guardrail_blocked"
            assert "[DONE]" not in answer.text
            assert len(streamed(answer)) <= (20 if rule_["kind"] == "max_length" else 0)
        else:
            assert refusal(answer) == (400, "guardrail_blocked", rule_["name"])
            assert float(answer.headers["x-tollhouse-price"]) > 0
            assert "is charged" in answer.json()["error"]["message"]
        provider.answer = good
        fine = ask(plane, headers=FEATURE, stream=stream)
        assert (streamed(fine) if stream else content(fine)) == good
        assert not stream or fine.text.endswith("data: [DONE]\n\n")
    settled()
    row = RequestLog.objects.get(request_id=answer.headers["x-request-id"])
    assert (row.status, row.error_code) == (400, "guardrail_blocked")
    assert row.price_pico > 0
    assert bad not in row.error_message


def test_a_rule_that_flags_lets_the_call_pass_and_says_so(plane, provider):
    with guarded(rail("regex", pattern="odd", on_fail="flag")):
        answer = ask(plane, "odd", headers=FEATURE)
        assert content(answer) == "odd"
        assert answer.headers["x-tollhouse-guardrails"] == "regex"
    settled()
    route = RequestLog.objects.get(request_id=answer.headers["x-request-id"]).route
    assert route["privacy"]["guardrails"] == [
        {"guardrail": "regex", "stage": "before", "wrong": "holds a forbidden pattern"}
    ]


def test_rules_judge_in_their_order_and_see_tokens_alone(plane):
    with guarded(rail("regex", pattern="anna"), {**rail("max_length", max_characters=20), "name": "short"}):
        answer = ask(plane, "anna.thirteen@planted.example and more", headers=FEATURE)
        assert refusal(answer) == (400, "guardrail_blocked", "short")


@contextmanager
def webhook(say):
    """A server whose answer `say(body, headers)` is: (status, JSON), or None for silence."""
    heard = []

    async def handle(peer, request):
        heard.append(request)
        said = say(json.loads(request.body))
        if said is None:
            await peer.wait_closed()
            return
        status, document = said
        await peer.send(reply(json.dumps(document).encode(), status=status))

    with serve(handle) as server:
        yield f"{server.url}/judge", heard


@pytest.mark.parametrize("stage", ["before", "after"])
def test_a_webhook_judges_what_the_provider_sees_signed_for_its_receiver(plane, provider, stage):
    def say(body):
        is_fine = not any("nasty" in text for text in body["texts"])
        return "200 OK", {"allow": is_fine, **({} if is_fine else {"reason": "tone.rude"})}

    with webhook(say) as (url, heard), guarded(rail("webhook", url=url, stage=stage)) as profile:
        secret = bindings.rotate_webhook_secret(profile=profile, grace_s=0, now=timezone.now(), actor=SYSTEM)
        caught_up()
        fine = ask(plane, "kind anna.fourteen@planted.example", headers=FEATURE)
        assert content(fine) == "kind anna.fourteen@planted.example"
        answer = ask(plane, "nasty anna.fourteen@planted.example", headers=FEATURE)
        assert refusal(answer) == (400, "guardrail_blocked", "webhook")
        assert "(tone.rude)" in answer.json()["error"]["message"]
        assert len(provider.received) == (1 if stage == "before" else 2)
        for request in heard:
            webhooks.verify(
                headers=dict(request.headers), body=request.body, secrets=(secret,), now=timezone.now()
            )
            assert b"planted" not in request.body
        asked = json.loads(heard[0].body)
    assert (asked["type"], asked["stage"], asked["tenant"], asked["guardrail"]) == (
        "guardrail.check", stage, "acme", "webhook",
    )  # fmt: skip
    assert asked["request_id"] == fine.headers["x-request-id"]
    assert asked["texts"][0].startswith("kind <EMAIL_")


@pytest.mark.parametrize(
    "said", [None, ("500 Oops", {}), ("200 OK", {"allow": "yes"}), ("200 OK", [])], ids=str
)
@pytest.mark.parametrize("on_error", ["fail_open", "fail_closed"])
def test_no_verdict_means_what_the_rule_says_it_means(plane, provider, said, on_error):
    with (
        webhook(lambda _: said) as (url, _),
        guarded(rail("webhook", url=url, on_error=on_error, timeout_ms=200)),
    ):
        answer = ask(plane, "Hello", headers=FEATURE)
    if on_error == "fail_open":
        assert content(answer) == "Hello"
        assert answer.headers["x-tollhouse-guardrails"] == "webhook"
    else:
        assert refusal(answer) == (400, "guardrail_blocked", "webhook")
        assert provider.received == []


def test_a_tenants_webhook_must_be_where_the_egress_client_may_go(demo):
    acme = Tenant.objects.get(slug="acme")
    with pytest.raises(ApiError) as refused:
        rule(acme, "inside", guardrails=[rail("webhook", url="https://169.254.169.254/x")])
    assert (refused.value.code, refused.value.param) == ("url_not_allowed", "guardrails.0.url")


def test_a_held_stream_shows_nothing_of_an_answer_that_breaks(plane):
    with guarded(rail("regex", stage="after", pattern="never")):
        answer = ask(plane, "one two three four", model="cut-held", stream=True, headers=FEATURE)
        assert streamed(answer) == ""
        assert events(answer)[-1]["error"]["code"] == "provider_invalid_response"
    settled()
    row = RequestLog.objects.get(request_id=answer.headers["x-request-id"])
    assert (row.price_pico, row.attempts[0]["status"]) == (0, "error")
