"""A real local model behind a real gateway: the ledger agrees with the provider's own count to the last token.

Needs an OpenAI-compatible server with a chat model and an embedding model; run by `make test-real` alone.
REAL_PROVIDER_URL (default http://127.0.0.1:8701/v1), REAL_PROVIDER_KEY, REAL_CHAT_MODEL, REAL_EMBEDDING_MODEL.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import openai
import pytest
from django.db import transaction
from django.utils import timezone

from billing.models import UsageEvent
from billing.usage.verify import verify
from routing.models import CostRate, Endpoint, Model, Provider
from tenants import versions

URL = os.environ.get("REAL_PROVIDER_URL", "http://127.0.0.1:8701/v1")
KEY = os.environ.get("REAL_PROVIDER_KEY", "local-key")
CHAT = os.environ.get("REAL_CHAT_MODEL", "smollm2-135m")
EMBEDDINGS = os.environ.get("REAL_EMBEDDING_MODEL", "e5-small")
CALLS = 200

pytestmark = pytest.mark.real


def seed():
    from routing.credentials import store
    from tenants.principal import SYSTEM

    with transaction.atomic():
        versions.bump("routing")
        provider = Provider.objects.create(
            slug="real",
            name="Real",
            kind="openai_compatible",
            base_url=URL,
            region="local",
            first_byte_timeout_s=120,
            stall_timeout_s=60,
        )
        store(provider=provider, tenant=None, secret=KEY, label="", base_url="", actor=SYSTEM)
        for slug, name, operation in (("real-chat", CHAT, "chat"), ("real-embed", EMBEDDINGS, "embeddings")):
            model = Model.objects.create(slug=slug, name=slug, operations=[operation])
            Endpoint.objects.create(provider=provider, model=model, provider_model=name)
            for component in ("input", "output"):
                CostRate.objects.create(
                    provider="real",
                    provider_model=name,
                    component=component,
                    price=Decimal("0.10"),
                    effective_from=timezone.now(),
                )


def call(client, number):
    """One of the mix: (input, output) tokens as the provider told, or None for a stream that is cut."""
    if number % 10 == 3:
        usage = client.embeddings.create(model="real-embed", input=[f"number {number}", "x"]).usage
        return usage.prompt_tokens, 0
    messages = [{"role": "user", "content": f"Count to {number}"}]
    if number % 2:
        usage = client.chat.completions.create(model="real-chat", messages=messages, max_tokens=8).usage
        return usage.prompt_tokens, usage.completion_tokens
    stream = client.chat.completions.create(
        model="real-chat",
        messages=messages,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    if number % 10 == 0:
        for _ in range(4):
            next(stream)
        stream.close()
        return None
    usage = [chunk.usage for chunk in stream][-1]
    return usage.prompt_tokens, usage.completion_tokens


def test_the_ledger_agrees_with_the_provider(gateway, demo, drain):
    seed()
    time.sleep(2)
    key = demo["tenants"][0]["api_key"]
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, timeout=300) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        told = list(pool.map(lambda number: call(client, number), range(CALLS)))
    time.sleep(2)
    drain()
    whole = [usage for usage in told if usage is not None]
    rows = UsageEvent.objects.filter(status="ok", usage_source="provider")
    assert sorted((row.input_tokens, row.output_tokens) for row in rows) == sorted(whole)
    assert UsageEvent.objects.filter(status__in=("ok", "cancelled")).count() == CALLS
    assert verify().ok
