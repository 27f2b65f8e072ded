from decimal import Decimal
from typing import Any

import orjson
import pytest

from routing.entries import FeatureEntry
from routing.policies.preferences import Preferences, read_preferences
from routing.types import EndpointHealth
from tenants.errors import ApiError
from tests.routing.policies.planning import asked, order, reasons, refused, whys
from tests.routing.targets import card, policy, snapshot, target

TRIO = [
    target("a", provider="alpha", rates=card(input="3", output="3")),
    target("b", provider="beta", rates=card(input="2", output="2")),
    target("c", provider="gamma", rates=card(input="1", output="1")),
]
CHEAP = snapshot(TRIO, policy("p", "cost"))


def wishes(**said: Any) -> Preferences | None:
    return read_preferences(orjson.loads(orjson.dumps(said)))


# ------------------------------------------------------------------ reading


def test_all_of_openrouters_names_are_read() -> None:
    assert wishes(
        order=["Alpha", "beta", "alpha"],
        only=["alpha"],
        ignore=["gamma"],
        allow_fallbacks=False,
        require_parameters=True,
        data_collection="deny",
        zdr=True,
        sort="throughput",
        max_price={"prompt": 1, "completion": "2.5", "request": 0.1, "image": 0},
        preferred_max_latency={"p50": 1, "p75": 3, "p90": 2.5},
        preferred_min_throughput=20,
    ) == Preferences(
        order=("alpha", "beta"),
        only=frozenset({"alpha"}),
        ignore=frozenset({"gamma"}),
        allow_fallbacks=False,
        may_train=False,
        zero_retention=True,
        sort="throughput",
        max_price=(
            ("completion", Decimal("2.5")),
            ("image", Decimal(0)),
            ("prompt", Decimal(1)),
            ("request", Decimal("0.1")),
        ),
        max_p50_ms=1000.0,
        max_p95_ms=2500.0,
        min_tokens_per_s=20.0,
    )


def test_null_and_absent_fields_ask_for_nothing() -> None:
    assert read_preferences(None) is None
    assert wishes(order=None, sort=None, max_price={"prompt": None}) == Preferences()
    assert wishes(sort={"by": "price", "partition": "none"}) == Preferences(sort="cost")


@pytest.mark.parametrize(
    ("said", "code", "param"),
    [
        ([], "invalid_request", "provider"),
        ({"order": "alpha"}, "invalid_request", "provider.order"),
        ({"only": [1]}, "invalid_request", "provider.only"),
        ({"only": ["x"] * 101}, "invalid_request", "provider.only"),
        ({"ignore": [""]}, "invalid_request", "provider.ignore"),
        ({"allow_fallbacks": "no"}, "invalid_request", "provider.allow_fallbacks"),
        ({"require_parameters": 1}, "invalid_request", "provider.require_parameters"),
        ({"data_collection": "maybe"}, "invalid_request", "provider.data_collection"),
        ({"data_collection": ["deny"]}, "invalid_request", "provider.data_collection"),
        ({"zdr": 0}, "invalid_request", "provider.zdr"),
        ({"sort": "beauty"}, "invalid_request", "provider.sort"),
        ({"sort": {"by": "beauty"}}, "invalid_request", "provider.sort.by"),
        ({"sort": {"by": "price", "partition": "model"}}, "unsupported_parameter", "provider.sort.partition"),
        ({"sort": {"of": "price"}}, "unknown_field", "provider.sort.of"),
        ({"max_price": 1}, "invalid_request", "provider.max_price"),
        ({"max_price": {"prompt": -1}}, "invalid_request", "provider.max_price.prompt"),
        ({"max_price": {"prompt": "1 USD"}}, "invalid_request", "provider.max_price.prompt"),
        ({"max_price": {"prompt": "NaN"}}, "invalid_request", "provider.max_price.prompt"),
        ({"max_price": {"prompt": True}}, "invalid_request", "provider.max_price.prompt"),
        ({"max_price": {"prompt": 0.1234567890123456}}, "invalid_request", "provider.max_price.prompt"),
        ({"max_price": {"audio": 1}}, "unknown_field", "provider.max_price.audio"),
        ({"preferred_max_latency": 0}, "invalid_request", "provider.preferred_max_latency"),
        ({"preferred_max_latency": {"p50": "1"}}, "invalid_request", "provider.preferred_max_latency.p50"),
        (
            {"preferred_max_latency": {"p99": 1}},
            "unsupported_parameter",
            "provider.preferred_max_latency.p99",
        ),
        ({"preferred_max_latency": {"p10": 1}}, "unknown_field", "provider.preferred_max_latency.p10"),
        (
            {"preferred_min_throughput": {"p90": 1}},
            "unsupported_parameter",
            "provider.preferred_min_throughput.p90",
        ),
        ({"quantizations": ["int8"]}, "unsupported_parameter", "provider.quantizations"),
        ({"enforce_distillable_text": True}, "unsupported_parameter", "provider.enforce_distillable_text"),
        ({"region": "eu"}, "unknown_field", "provider.region"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(said: Any, code: str, param: str) -> None:
    with pytest.raises(ApiError) as refusal:
        read_preferences(said)
    assert (refusal.value.code, refusal.value.param) == (code, param)


@pytest.mark.parametrize("text", ["0.1", "2.675", "0.000001", "1e-7", "123456789.123456", "3"])
def test_a_price_written_as_a_number_is_the_price_written_as_a_string(text: str) -> None:
    read = read_preferences(orjson.loads(f'{{"max_price": {{"prompt": {text}, "completion": "{text}"}}}}'))
    assert read is not None
    assert {price for _, price in read.max_price} == {Decimal(text)}


# ------------------------------------------------------------------ planning


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ["c", "b", "a"]),
        ({"order": ["a", "beta"]}, ["b", "c", "a"]),
        ({"order": ["alpha", "gamma"]}, ["a", "c", "b"]),
        ({"order": ["alpha"], "allow_fallbacks": False}, ["a"]),
        ({"only": ["alpha", "beta"]}, ["b", "a"]),
        ({"ignore": ["gamma"]}, ["b", "a"]),
        ({"allow_fallbacks": False}, ["c"]),
        ({"max_price": {"prompt": 2}}, ["c", "b"]),
        ({"max_price": {"completion": "2.9999"}}, ["c", "b"]),
        ({"max_price": {"request": 0, "image": 0}}, ["c", "b", "a"]),
        ({"sort": "latency"}, ["a", "b", "c"]),
        ({"sort": "throughput"}, ["b", "c", "a"]),
        ({"preferred_max_latency": 0.1}, ["a", "c", "b"]),
        ({"preferred_min_throughput": 20}, ["b", "a", "c"]),
    ],
)
def test_each_preference_does_what_it_says(said: dict[str, Any], expected: list[str]) -> None:
    health = {
        "a": EndpointHealth(first_byte_p50_ms=100),
        "b": EndpointHealth(first_byte_p50_ms=200, output_tokens_per_s=50),
        "c": EndpointHealth(first_byte_p50_ms=300, output_tokens_per_s=10),
    }
    answer = asked(CHEAP, "policy:p", health=health, preferences=wishes(**said))
    assert order(answer) == expected
    assert sorted(order(answer) + list(reasons(answer))) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"only": ["nobody"]}, "provider.only"),
        ({"only": []}, "provider.only"),
        ({"ignore": ["alpha", "beta", "gamma"]}, "provider.ignore"),
        ({"order": ["nobody"], "allow_fallbacks": False}, "provider.order"),
        ({"data_collection": "deny"}, "provider.data_collection"),
        ({"zdr": True}, "provider.zdr"),
        ({"max_price": {"prompt": "0.5"}}, "provider.max_price"),
    ],
)
def test_preferences_that_leave_nothing_are_named(said: dict[str, Any], param: str) -> None:
    error = refused(CHEAP, "policy:p", preferences=wishes(**said))
    assert (error.code, error.status, error.param) == ("unsupported_parameter", 422, param)


def test_data_preferences_keep_what_promises_it() -> None:
    routes = snapshot(
        [target("keeps", trains_on_data=False, retention_days=30), target("clean", retention_days=0)]
    )
    assert order(asked(routes, "m", preferences=wishes(data_collection="deny"))) == ["keeps"]
    assert order(asked(routes, "m", preferences=wishes(zdr=True))) == ["clean"]
    assert reasons(asked(routes, "m", preferences=wishes(zdr=True))) == {
        "keeps": "keeps content for 30 days (provider.zdr)"
    }


def test_a_fee_per_request_is_held_to_max_price() -> None:
    fee = target("fee", rates=card(input="1", output="1", request="500000"))  # 0.5 USD each
    routes = snapshot([fee, target("none")])
    answer = asked(routes, "m", preferences=wishes(max_price={"request": "0.4"}))
    assert order(answer) == ["none"]
    assert reasons(answer) == {"fee": "costs more than provider.max_price.request = 0.4"}
    assert len(order(asked(routes, "m", preferences=wishes(max_price={"request": 0.5})))) == 2


def test_preferences_never_lift_what_the_policy_forbids() -> None:
    strict = snapshot(TRIO, policy("p", "cost", constraints={"deny": {"providers": ["alpha"]}}))
    for said in ({"order": ["alpha"]}, {"data_collection": "allow"}, {"max_price": {"prompt": 99}}):
        assert "a" not in order(asked(strict, "policy:p", preferences=wishes(**said)))
    error = refused(strict, "policy:p", preferences=wishes(only=["alpha"]))
    assert error.code == "unsupported_parameter"


def test_a_sort_of_the_callers_keeps_an_slo_policys_cost_limit() -> None:
    routes = snapshot(
        TRIO,
        policy("p", "slo"),
        features={(None, "chat"): FeatureEntry("chat", None, None, 1000, None, 1_500_000_000)},
    )
    answer = asked(routes, "policy:p", feature="chat", preferences=wishes(sort="latency"))
    assert order(answer) == ["c"]
    assert whys(answer) == ["not measured yet, drawn to explore"]
