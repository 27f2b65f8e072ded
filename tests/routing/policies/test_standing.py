from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.entries import PolicyTarget
from routing.types import Circuit, EndpointHealth, Health
from tests.routing.policies.planning import STRANGER, TENANT, asked, order, own, reasons, refused, whys
from tests.routing.targets import NOW, card, policy, snapshot, target

OPEN = EndpointHealth(Circuit.OPEN, NOW + 30)
LAPSED = EndpointHealth(Circuit.OPEN, NOW - 1)
WAITING = EndpointHealth(Circuit.HALF_OPEN)
PROBE = EndpointHealth(Circuit.HALF_OPEN, is_probe=True)

TRIO = snapshot(
    [
        target(name, rates=card(input=price, output=price), quota_key=f"{name}/m")
        for name, price in (("a", "1"), ("b", "2"), ("c", "3"))
    ],
    policy("p", "cost"),
)

# ------------------------------------------------------------------ circuits


def test_an_open_circuit_puts_a_target_last_and_says_until_when() -> None:
    answer = asked(TRIO, "policy:p", health={"a": OPEN})
    assert order(answer) == ["b", "c", "a"]
    assert whys(answer)[2] == (
        "estimated cost in pico-units; last: circuit open until 2026-06-01 00:00:30 UTC"
    )


def test_of_open_circuits_the_soonest_to_reopen_is_first() -> None:
    health = {
        "a": OPEN,
        "b": EndpointHealth(Circuit.OPEN, NOW + 40),
        "c": EndpointHealth(Circuit.OPEN, NOW + 10),
    }
    answer = asked(TRIO, "policy:p", health=health)
    assert (order(answer), answer.dropped) == (["c", "a", "b"], ())


def test_the_only_target_is_kept_whatever_its_circuit_says() -> None:
    assert order(asked(snapshot([target("a")]), "m", health={"a": OPEN})) == ["a"]


@pytest.mark.parametrize("known", [WAITING, LAPSED])
def test_a_half_open_target_is_last_for_all_but_its_prober(known: EndpointHealth) -> None:
    answer = asked(TRIO, "policy:p", health={"a": known})
    assert order(answer) == ["b", "c", "a"]
    assert whys(answer)[2].endswith("last: circuit half open, waiting for its probe")


def test_the_prober_finds_a_half_open_target_in_its_place() -> None:
    assert order(asked(TRIO, "policy:p", health={"a": PROBE})) == ["a", "b", "c"]


def test_an_open_circuit_gives_way_to_one_that_waits_for_its_probe() -> None:
    assert order(asked(TRIO, "policy:p", health={"a": OPEN, "b": OPEN, "c": WAITING})) == ["c", "a", "b"]


def test_a_circuit_brings_nothing_back_that_the_limits_left_out() -> None:
    routes = snapshot(
        [target("ok"), target("dear", rates=card(input="99", output="99"))],
        policy("p", "cost", constraints={"max_cost": "0.01"}),
    )
    answer = asked(routes, "policy:p", health={"ok": OPEN, "dear": OPEN})
    assert order(answer) == ["ok"]
    assert list(reasons(answer)) == ["dear"]


def test_an_open_main_target_leaves_the_call_to_the_fallback_first() -> None:
    routes = snapshot(
        [target("a"), target("spare", model="n")],
        policy("p", "weighted", "m", fallback=(PolicyTarget("n", None, 1),)),
    )
    assert order(asked(routes, "policy:p", health={"a": OPEN})) == ["spare", "a"]


def test_weights_are_shared_by_those_that_are_left() -> None:
    routes = snapshot(
        [
            target("a1", model="a", rates=card(input="99", output="99")),
            target("a2", model="a"),
            target("b", model="b"),
        ],
        policy(
            "p",
            "weighted",
            PolicyTarget("a", None, 3),
            PolicyTarget("b", None, 1),
            constraints={"max_cost": "0.01"},
        ),
    )
    first = Counter(order(asked(routes, "policy:p", draw=(n + 0.5) / 400))[0] for n in range(400))
    assert first == {"a2": 300, "b": 100}


# ------------------------------------------------------------------ paused quotas


def test_a_paused_quota_spills_to_the_others_and_is_not_dropped() -> None:
    health = Health(pauses={"a/m": NOW + 5, "b/m": NOW - 5})
    answer = asked(TRIO, "policy:p", health=health)
    assert order(answer) == ["b", "c", "a"]
    assert whys(answer)[2] == (
        "estimated cost in pico-units; behind the others: rate limited until 2026-06-01 00:00:05 UTC"
    )


def test_a_paused_quota_goes_behind_the_fallback_too() -> None:
    routes = snapshot(
        [target("a", quota_key="q"), target("spare", model="n", quota_key="r")],
        policy("p", "cost", "m", fallback=(PolicyTarget("n", None, 1),)),
    )
    assert order(asked(routes, "policy:p", health=Health(pauses={"q": NOW + 1}))) == ["spare", "a"]


def test_one_paused_credential_spills_to_its_twin_first_by_rank() -> None:
    routes = snapshot(
        [
            target("e", credential_id="k1", quota_key="k1"),
            target("e", credential_id="k2", quota_key="k2"),
            target("dear", rates=card(input="9", output="9"), quota_key="k3"),
        ],
        policy("p", "cost"),
    )
    for draw in (0.1, 0.4, 0.9):
        answer = asked(routes, "policy:p", draw=draw, health=Health(pauses={"k1": NOW + 1}))
        assert [each.target.credential_id for each in answer.targets] == ["k2", "c", "k1"]


# ------------------------------------------------------------------ own credentials

OWN = {(TENANT, "acme"): (own("mine"),), (TENANT, "beta"): (own("b1", "https://mine.test/v1"), own("b2"))}


def byo(constraints: dict[str, Any] | None = None) -> Any:
    return snapshot(
        [
            target("a", rates=card(input="5", output="5"), quota_key="op/m-1"),
            target("b", provider="beta", rates=card(input="7", output="7"), quota_key="op/m-1"),
            target("c", provider="gamma"),
        ],
        policy("p", "cost", constraints=constraints or {}),
        own=OWN,
    )


def keys_of(answer: Any) -> list[tuple[str, str]]:
    return [(each.target.endpoint_id, each.target.credential_id) for each in answer.targets]


def test_own_credentials_go_first_and_the_operators_follow() -> None:
    answer = asked(byo(), "policy:p", draw=0.0)
    assert keys_of(answer) == [("a", "mine"), ("b", "b1"), ("b", "b2"), ("c", "c"), ("a", "c"), ("b", "c")]
    first = answer.targets[1].target
    assert (first.is_own, first.api_key, first.base_url, first.quota_key) == (
        True, "sk-b1", "https://mine.test/v1", "b1/m-1",
    )  # fmt: skip
    assert answer.targets[0].target.base_url == "https://api.acme.test/v1"
    assert whys(answer)[0] == "the tenant's own credential; estimated cost in pico-units"


def test_own_only_never_uses_the_operators() -> None:
    answer = asked(byo({"credentials": "own_only"}), "policy:p", draw=0.0)
    assert keys_of(answer) == [("a", "mine"), ("b", "b1"), ("b", "b2")]
    assert set(reasons(answer).values()) == {"is not reached with the tenant's own credential"}
    error = refused(byo({"credentials": "own_only"}), "policy:p", tenant_id=STRANGER)
    assert (error.code, "credential of your own" in error.message) == ("model_not_allowed", True)


def test_never_uses_the_operators_alone() -> None:
    assert keys_of(asked(byo({"credentials": "never"}), "policy:p")) == [("c", "c"), ("a", "c"), ("b", "c")]


def test_own_credentials_serve_plain_models_and_no_other_tenant() -> None:
    assert keys_of(asked(byo(), "acme/m")) == [("a", "mine"), ("a", "c")]
    assert keys_of(asked(byo(), "acme/m", tenant_id=STRANGER)) == [("a", "c")]


def test_an_endpoint_without_an_operators_credential_serves_its_owners_alone() -> None:
    routes = snapshot([target("a", needs_own=True, credential_id="")], own={(TENANT, "acme"): (own("k"),)})
    answer = asked(routes, "m")
    assert keys_of(answer) == [("a", "k")]
    assert reasons(answer) == {"a": "the operator has no credential there"}
    error = refused(routes, "m", tenant_id=STRANGER)
    assert (error.code, error.status) == ("model_not_found", 404)


# ------------------------------------------------------------------ properties


circuits = st.builds(
    EndpointHealth,
    circuit=st.sampled_from(Circuit),
    open_until=st.sampled_from((NOW - 5, NOW + 5, NOW + 50)),
    is_probe=st.booleans(),
    first_byte_p50_ms=st.one_of(st.none(), st.floats(1, 5000)),
    success=st.one_of(st.none(), st.floats(0, 1)),
    samples=st.integers(0, 1000),
)


@given(
    health=st.lists(st.one_of(st.none(), circuits), min_size=2, max_size=8),
    paused=st.frozensets(st.integers(0, 7)),
    strategy=st.sampled_from(("cost", "latency", "reliability", "slo", "weighted", "ordered")),
    fallback=st.booleans(),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_no_state_of_the_providers_ejects_a_target_or_puts_the_ready_behind(
    health: list[EndpointHealth | None],
    paused: frozenset[int],
    strategy: str,
    fallback: bool,
    draw: float,
) -> None:
    targets = [target(f"e{n}", model="mn"[n % 2], quota_key=f"q{n}") for n in range(len(health))]
    spare = (PolicyTarget("n", None, 1),) if fallback else ()
    routes = snapshot(targets, policy("p", strategy, *(["m"] if fallback else []), fallback=spare))
    state = Health(
        endpoints={f"e{n}": known for n, known in enumerate(health) if known is not None},
        pauses={f"q{n}": NOW + n for n in paused},
    )
    answer = asked(routes, "policy:p", health=state, draw=draw)
    assert sorted(order(answer)) == sorted(each.endpoint_id for each in targets)
    assert answer == asked(routes, "policy:p", health=state, draw=draw)
    standing = {
        f"e{n}": (
            3
            if known and known.circuit is Circuit.OPEN and known.open_until > NOW
            else 2
            if known and known.circuit is not Circuit.CLOSED and not known.is_probe
            else 1
            if n in paused and n > 0
            else 0
        )
        for n, known in enumerate(health)
    }
    levels = [standing[each] for each in order(answer)]
    assert levels == sorted(levels)
