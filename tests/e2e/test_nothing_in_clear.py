"""The real product, a tenant that tokenises everything, 200 pieces of personal data and every kind of secret:
none of them may be found anywhere afterwards, in any spelling."""

import contextlib
import os
import secrets
import subprocess
import sys
import time

import httpx
import pytest
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from django.conf import settings
from django.db import connection
from django.test import Client
from stdnum import luhn
from stdnum.iso7064 import mod_97_10

from billing.models import AlertChannel, UsageEvent
from gateway.models import RequestLog
from gateway.privacy import bindings
from gateway.privacy.detect import Rules, compiled
from gateway.privacy.kinds import KINDS, Action
from routing import credentials
from routing.models import Provider
from tenants import keys, retention, sso
from tenants.models import Tenant, User
from tenants.principal import SYSTEM
from tests import scan
from tests.e2e.gateway_process import database_url, running

EACH = 40
MESSAGES = {"model": "sandbox-large", "max_tokens": 20}


def personal():
    """200 pieces of personal data, all different, of five kinds."""
    found = []
    for number in range(EACH):
        found.append(f"planted.person.{number:03}@example-{number}.org")
        found.append(f"+49 30 9{1_000_000 + number * 7919}")
        digits = f"411111{number:03}{700_000 + number * 101}"[:15]
        found.append(digits + luhn.calc_check_digit(digits))
        account = f"37040044{532_013_000 + number:010}"
        found.append(f"DE{mod_97_10.calc_check_digits(account + 'DE')}{account}")
        found.append(
            f"203.0.113.{number + 10}" if number < 20 else f"2001:db8:77::{number:x}:{0xBEEF + number:x}"
        )
    return found


def calls(url, key, planted):
    """Each piece in one place or another of a call, on every surface, whole and streamed. How many calls."""
    made = 0
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        for number in range(0, len(planted), 5):
            email, phone, card, iban, address = planted[number : number + 5]
            way = (number // 5) % 6
            sentence = f"Write to {email} or call {phone}, card {card}, account {iban}, from {address}."
            tool_call = {
                "id": "c",
                "type": "function",
                "function": {"name": "f", "arguments": f'{{"to": "{email}"}}'},
            }
            chat = {
                "model": "sandbox-large",
                "user": email,
                "messages": [
                    {"role": "system", "content": f"The customer is {email}."},
                    {"role": "user", "content": [{"type": "text", "text": sentence}]},
                    {"role": "assistant", "content": None, "tool_calls": [tool_call]},
                    {
                        "role": "tool",
                        "tool_call_id": "c",
                        "content": f'{{"iban": "{iban}", "card": "{card}"}}',
                    },
                ],
            }
            path, body, headers = (
                ("/v1/chat/completions", chat, {}),
                ("/v1/chat/completions", {**chat, "stream": True}, {"x-tollhouse-user": phone}),
                ("/v1/completions", {"model": "sandbox-small", "prompt": sentence}, {"x-tollhouse-tags": "a=b"}),
                ("/v1/embeddings", {"model": "sandbox-embed", "input": [sentence, email]}, {}),
                ("/v1/messages", {**MESSAGES, "system": sentence, "messages": chat["messages"][1:2]}, {}),
                ("/v1/responses", {"model": "sandbox-large", "input": sentence, "store": False}, {}),
            )[way]  # fmt: skip
            answer = client.post(path, json=body, headers=headers)
            assert answer.status_code == 200, (path, answer.text)
            made += 1
            # And where it has no business: a model's name, a path. Refused, and logged or not, never kept.
            refused = client.post(path, json={**body, "model": f"model-of-{email}"})
            assert refused.status_code == 404
            assert client.get(f"/v1/models/{email}").status_code == 404
    return made


def secrets_of(demo):
    """One of every kind of secret, planted as the product itself keeps them."""
    acme = Tenant.objects.get(slug="acme")
    user = User.objects.get(email=demo["admin_email"])
    provider_key, own_key = (f"sk-planted-{secrets.token_hex(16)}" for _ in range(2))
    provider = Provider.objects.order_by("id").first()
    credentials.store(
        provider=provider, tenant=None, secret=provider_key, label="planted", base_url="", actor=SYSTEM
    )
    credentials.store(
        provider=provider,
        tenant=acme,
        secret=own_key,
        label="planted",
        base_url="https://8.8.8.8/v1",
        actor=SYSTEM,
    )
    client_secret = f"planted-client-{secrets.token_hex(16)}"
    sso.create_connection(
        tenant=acme, name="Planted", issuer="https://8.8.8.8", client_id="tollhouse",
        client_secret=client_secret, actor=SYSTEM,
    )  # fmt: skip
    totp = generate_totp_secret()
    TOTP.activate(user, totp)
    codes = RecoveryCodes.activate(user).get_unused_codes()
    issued = keys.issue(tenant=acme, name="planted", scopes=("*",), actor=SYSTEM).text
    return {
        "password": demo["admin_password"],
        "operator key": demo["operator_key"],
        "acme's key": demo["tenants"][0]["api_key"],
        "globex's key": demo["tenants"][1]["api_key"],
        "issued key": issued,
        "provider key": provider_key,
        "own provider key": own_key,
        "client secret": client_secret,
        "totp secret": totp,
        **{f"recovery code {number}": code for number, code in enumerate(codes)},
        "secret key": settings.SECRET_KEY,
        "master key": settings.TOLLHOUSE_MASTER_KEYS[0].partition(":")[2],
        "pepper": settings.TOLLHOUSE_KEY_PEPPERS[0].partition(":")[2],
    }


def asked_for(url, demo):
    """Secrets that the product makes itself and shows once: asked for by API, with an idempotency key."""
    shown = []
    headers = {"authorization": f"Bearer {demo['operator_key']}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        made = client.post(
            "/api/v1/tenants/acme/keys/",
            json={"name": "by api", "scopes": ["inference:*"]},
            headers={"idempotency-key": "planted-1"},
        )
        assert made.status_code == 201, made.text
        shown.append(made.json()["key"])
        hook = client.post(
            "/api/v1/alert-channels/",
            json={
                "name": "planted",
                "kind": "webhook",
                "target": "https://8.8.8.8/x",
                "tenant": "acme",
            },
            headers={"idempotency-key": "planted-2"},
        )
        assert hook.status_code == 201, hook.text
        shown.append(hook.json()["secret"])
        slack = f"https://hooks.slack.com/services/T0/B0/{secrets.token_hex(12)}"
        channel = AlertChannel(name="slack", kind="slack", target="hooks.slack.com")
        channel.put_secret(slack)
        channel.save()
        shown.append(slack)
        # Wrong on purpose: what is refused must not be remembered either.
        client.post("/api/v1/tenants/acme/keys/", json={"name": "x", "scopes": ["nonsense"], "key": slack})
        client.get("/api/v1/tenants/", headers={"authorization": f"Bearer {shown[0][:-1]}x"})
    return shown


@contextlib.contextmanager
def background(data):
    """The worker and the beat, as `make up` runs them, with their output in the data folder."""
    env = {**os.environ, "DATABASE_URL": database_url(), "REDIS_URL": settings.REDIS_URL, "TOLLHOUSE_DATA": str(data),
           "DJANGO_SETTINGS_MODULE": "gateway.settings", "LOG_LEVEL": "DEBUG"}  # fmt: skip
    started = []
    try:
        for name, options in (
            ("worker", ["worker", "--concurrency", "1", "--pool", "solo"]),
            ("beat", ["beat", "--schedule", str(data / "beat-schedule")]),
        ):
            with (data / f"{name}.log").open("ab") as log:
                argv = [
                    sys.executable,
                    "-W",
                    "ignore",
                    "-m",
                    "celery",
                    "-A",
                    "gateway",
                    *options,
                    "--loglevel",
                    "DEBUG",
                ]
                started.append(subprocess.Popen(argv, env=env, stdout=log, stderr=log))
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


def kept():
    """How many calls' content is stored, sealed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM gateway_content")
        return cursor.fetchone()[0]


def test_neither_personal_data_nor_a_secret_is_anywhere_in_clear(demo, tmp_path):
    planted = personal()
    assert len(set(planted)) == 200
    finder = compiled(Rules(dict.fromkeys(KINDS, Action.TOKENIZE)))
    assert [text for text in planted if not finder.find(text)] == []
    acme = Tenant.objects.get(slug="acme")
    actions = {kind: "tokenize" for kind in KINDS if kind != "name"}
    values = {"actions": {**actions, "end_user": "tokenize"}, "vault_days": 30}
    profile = bindings.create_profile(slug="everything", tenant=acme, values=values, actor=SYSTEM)
    bindings.bind(profile=profile, bound_tenant=acme, actor=SYSTEM)
    retention.change_setting(tenant=acme, changes={"content_days": 30}, actor=SYSTEM)
    secret = secrets_of(demo)

    with background(tmp_path), running(tmp_path, "--log-level", "debug") as gateway:
        made = calls(gateway.url, demo["tenants"][0]["api_key"], planted)
        shown = asked_for(gateway.url, demo)
        for password in (f"{secret['password']}-mistyped", secret["password"]):
            answer = Client().post("/accounts/login/", {"login": demo["admin_email"], "password": password})
            assert answer.status_code in (200, 302)
        for _ in range(240):
            if UsageEvent.objects.count() >= made and kept() >= made:
                break
            time.sleep(0.5)
        # While everything is up: Redis holds what waits, the data folder the journal.
        alive = [*scan.redis_keys(settings.REDIS_URL), *scan.files(tmp_path)]
    assert UsageEvent.objects.count() == made
    assert kept() >= made
    assert RequestLog.objects.count() >= made

    needles = [*planted, *secret.values(), *shown]
    places = [
        *alive,
        *scan.database(database_url()),
        *scan.redis_keys(settings.REDIS_URL),
        *scan.files(tmp_path),
    ]
    hits, size = scan.search(places, needles)
    assert [(hit.place, hit.spelling, needles[hit.number]) for hit in hits] == []
    assert size > 100_000
    print(f"{len(needles)} needles, {len(places)} places, {size:,} bytes: 0 hits")


@pytest.mark.parametrize("spell", ["raw", "json", "hex", "HEX", "url", "base64+0", "base64+1", "base64+2"])
def test_the_scanner_finds_every_spelling(spell):
    needle = 'Ünï"planted@example.org'
    found, _ = scan.search([("here", b"..." + scan.spellings(needle)[spell] + b"...")], ["not there", needle])
    assert {(hit.place, hit.number) for hit in found} == {("here", 1)}


def test_the_scanner_finds_a_value_in_every_redis_type(demo):
    import base64
    import json

    import redis

    value = "planted-in-redis@example.org"
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.set("a", json.dumps({"x": value}))
        client.hset("b", "f", base64.b64encode(b"xy" + value.encode()))
        client.rpush("c", value)
        client.sadd("d", value.encode().hex())
        client.zadd("e", {value: 1})
        client.xadd("f", {"x": value})
        client.set(f"g:{value}", 1)
        hits, _ = scan.search(scan.redis_keys(settings.REDIS_URL), [value])
        client.delete("a", "b", "c", "d", "e", "f", f"g:{value}")
    assert {hit.place.partition(" ")[2][0] for hit in hits} == set("abcdefg")
