import json
from decimal import Decimal
from typing import Any

import pytest

from routing.catalog.book import CatalogueModel, CatalogueRate, Listing
from routing.catalog.litellm import clean, translate


def listings(**entries: dict[str, Any]) -> tuple[Listing, ...]:
    return translate(
        json.dumps({name.replace("__", "/"): entry for name, entry in entries.items()}).encode()
    )[1]


def rates(**entry: Any) -> tuple[CatalogueRate, ...]:
    (only,) = listings(m={"litellm_provider": "openai", "mode": "chat", **entry})
    return only.rates


def row(component: str, price: str, tier: str = "", minimum: int = 0) -> CatalogueRate:
    return CatalogueRate(component, Decimal(price), 1_000_000, tier, minimum)


def test_service_and_context_tiers_come_from_the_field_names() -> None:
    assert rates(
        input_cost_per_token=1.25e-06,
        input_cost_per_token_above_200k_tokens=2.5e-06,
        input_cost_per_token_above_200k_tokens_priority=4.5e-06,
        output_cost_per_token_batches=5e-06,
        cache_creation_input_token_cost_above_1hr=6e-06,
    ) == (
        row("cache_write_1h", "6"),
        row("input", "1.25"),
        row("input", "2.5", minimum=200_000),
        row("output", "5", "batch"),
        row("input", "4.5", "priority", 200_000),
    )


def test_bands_of_tiered_pricing_become_context_tiers() -> None:
    bands = [
        {"input_cost_per_token": 3e-07, "range": [0, 32000.0]},
        {"input_cost_per_token": 5e-07, "range": [32000.0, 128000.0]},
    ]
    assert rates(tiered_pricing=bands) == (row("input", "0.3"), row("input", "0.5", minimum=32_000))


def test_zero_is_no_price_except_for_local_runners() -> None:
    assert rates(input_cost_per_token=0.0, output_cost_per_token=1e-06) == (row("output", "1"),)
    (local,) = listings(
        ollama__llama3={"litellm_provider": "ollama", "mode": "chat", "input_cost_per_token": 0.0}
    )
    assert local == Listing("ollama", "llama3", "llama3", (row("input", "0"),))


def test_a_model_with_a_fee_that_no_usage_tells_is_unpriced() -> None:
    assert rates(input_cost_per_token=1e-06, input_cost_per_request=0.005) == ()


def test_reasoning_at_the_output_price_is_left_to_fall_back() -> None:
    assert rates(output_cost_per_token=1e-06, output_cost_per_reasoning_token=1e-06) == (row("output", "1"),)
    assert rates(output_cost_per_token=1e-06, output_cost_per_reasoning_token=3e-06) == (
        row("output", "1"),
        row("reasoning", "3"),
    )


def test_images_without_a_price_of_their_own_cost_as_plain_input() -> None:
    assert rates(input_cost_per_token=1e-06, supports_vision=True) == (
        row("input", "1"),
        row("input_image", "1"),
    )
    assert rates(input_cost_per_token=1e-06, input_cost_per_image_token=2e-06, supports_vision=True) == (
        row("input", "1"),
        row("input_image", "2"),
    )


def test_searches_are_priced_only_where_every_size_costs_the_same() -> None:
    same = {"search_context_size_low": 0.01, "search_context_size_high": 0.01}
    differing = {"search_context_size_low": 0.01, "search_context_size_high": 0.05}
    assert rates(input_cost_per_token=1e-06, search_context_cost_per_query=same)[1:] == (
        CatalogueRate("web_searches", Decimal("0.01"), 1, "", 0),
    )
    assert rates(input_cost_per_token=1e-06, search_context_cost_per_query=differing)[1:] == ()


@pytest.mark.parametrize(
    ("stated", "cleaned"),
    [
        ("0.15000000000000002", "0.15"),
        ("8.900000000000001E-1", "0.89"),
        ("50.00002", "50.00002"),
        ("0.1142857142857143", "0.1142857143"),
        ("1000", "1000"),
    ],
)
def test_float_debris_is_removed_and_honest_digits_stay(stated: str, cleaned: str) -> None:
    assert str(clean(Decimal(stated))) == cleaned


def test_other_modes_are_left_out() -> None:
    assert (
        listings(m={"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_token": 1e-06})
        == ()
    )


def test_one_model_by_many_providers_takes_its_facts_from_its_maker() -> None:
    raw = {
        "azure/gpt-9": {"litellm_provider": "azure", "mode": "chat", "max_input_tokens": 100},
        "gpt-9": {
            "litellm_provider": "openai",
            "mode": "chat",
            "max_input_tokens": 200,
            "supports_vision": True,
        },
        "groq/openai/gpt-9": {"litellm_provider": "groq", "mode": "chat", "max_input_tokens": 300},
    }
    models, offers = translate(json.dumps(raw).encode())
    assert models == (CatalogueModel("gpt-9", "openai", ("chat",), ("vision",), 200, None),)
    assert [(o.book, o.provider_model, o.model) for o in offers] == [
        ("azure", "gpt-9", "gpt-9"),
        ("groq", "openai/gpt-9", "gpt-9"),
        ("openai", "gpt-9", "gpt-9"),
    ]
