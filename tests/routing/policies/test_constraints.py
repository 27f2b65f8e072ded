from decimal import Decimal
from typing import Any

import pytest

from routing.policies.constraints import Credentials, Rules, check_constraints, read_constraints
from routing.policies.refusals import NoTarget
from routing.types import EndpointHealth
from tests.routing.policies.planning import KEY, STRANGER, TENANT, asked, order, reasons, refused, whys
from tests.routing.targets import card, policy, snapshot, target


def ruled(constraints: dict[str, Any], *targets: Any) -> Any:
    return snapshot(targets or [target("a")], policy("p", "cost", constraints=constraints))


def test_every_constraint_is_read_exactly() -> None:
    read = read_constraints(
        {
            "regions": ["eu"],
            "capabilities": ["vision"],
            "max_price_per_million": "2.50",
            "max_cost": "0.0100000000009",
            "max_p95_ms": 2000,
            "min_success": 0.99,
            "allow": {"models": ["m"], "plans": []},
            "deny": {"providers": ["acme"]},
            "data": {"training": "deny", "retention_days": 0},
            "credentials": "own_only",
        }
    )
    assert (read.regions, read.capabilities) == (frozenset({"eu"}), frozenset({"vision"}))
    assert read.max_price_per_million == Decimal("2.50")
    assert read.max_cost_pico == 10_000_000_000
    assert (read.max_p95_ms, read.min_success) == (2000, 0.99)
    assert read.allow == Rules(models=frozenset({"m"}), plans=frozenset())
    assert read.deny == Rules(providers=frozenset({"acme"}))
    assert (read.may_train, read.max_retention_days) == (False, 0)
    assert read.credentials is Credentials.OWN_ONLY


@pytest.mark.parametrize(
    ("constraints", "where"),
    [
        ({"regoins": ["eu"]}, "regoins"),
        ({"regions": "eu"}, "regions"),
        ({"regions": [""]}, "regions"),
        ({"capabilities": [1]}, "capabilities"),
        ({"max_price_per_million": 2}, "max_price_per_million"),
        ({"max_price_per_million": "NaN"}, "max_price_per_million"),
        ({"max_cost": "-1"}, "max_cost"),
        ({"max_cost": 0.01}, "max_cost"),
        ({"max_cost": "Infinity"}, "max_cost"),
        ({"max_p95_ms": 0}, "max_p95_ms"),
        ({"max_p95_ms": True}, "max_p95_ms"),
        ({"max_p95_ms": 1.5}, "max_p95_ms"),
        ({"min_success": 1.01}, "min_success"),
        ({"min_success": "0.9"}, "min_success"),
        ({"allow": ["m"]}, "allow"),
        ({"allow": {"model": ["m"]}}, "allow.model"),
        ({"deny": {"tenants": "acme"}}, "deny.tenants"),
        ({"data": {"training": "never"}}, "data.training"),
        ({"data": {"retention_days": -1}}, "data.retention_days"),
        ({"data": {"retention_days": None}}, "data.retention_days"),
        ({"data": {"retain": 1}}, "data.retain"),
        ({"credentials": "own"}, "credentials"),
        ({"credentials": []}, "credentials"),
        ({"regions": None}, "regions"),
    ],
)
def test_what_is_not_understood_is_refused_and_closes_the_policy(
    constraints: dict[str, Any], where: str
) -> None:
    with pytest.raises(ValueError, match=where):
        check_constraints(constraints)
    error = refused(ruled(constraints), "policy:p")
    assert (error.code, where in error.message) == ("invalid_request", True)


def test_a_call_never_goes_where_it_is_estimated_above_its_limit() -> None:
    # 1000 x 1 + 500 x 2 per million = 0.002 USD; 1000 x 4 + 500 x 4 = 0.006 USD
    cheap, dear = target("cheap"), target("dear", rates=card(input="4", output="4"))
    answer = asked(ruled({"max_cost": "0.002"}, cheap, dear), "policy:p")
    assert order(answer) == ["cheap"]
    assert reasons(answer) == {"dear": "estimated above the limit of $0.002 per call"}
    error = refused(ruled({"max_cost": "0.0019999"}, cheap, dear), "policy:p")
    assert (error.code, error.status) == ("model_not_allowed", 403)


def test_a_cost_limit_leaves_out_what_has_no_price_in_usd() -> None:
    yen, unknown = target("yen", rates=card("JPY", input="1", output="1")), target("free?", rates=card())
    answer = asked(ruled({"max_cost": "1"}, target("a"), yen, unknown), "policy:p", allow_unpriced=True)
    assert order(answer) == ["a"]
    assert reasons(answer) == {
        "free?": "has no price for input",
        "yen": "priced in JPY, not comparable with a limit in USD",
    }
    dear_yen = asked(ruled({"max_price_per_million": "9"}, target("a"), yen), "policy:p")
    assert reasons(dear_yen) == {"yen": "priced in JPY, not comparable with a limit in USD"}


def test_a_measured_p95_is_held_to_its_limit_and_the_unmeasured_rank_behind() -> None:
    routes = ruled(
        {"max_p95_ms": 2000},
        target("new", rates=card(input="0.1", output="0.1")),
        target("slow"),
        target("good", rates=card(input="9", output="9")),
    )
    health = {
        "slow": EndpointHealth(first_byte_p95_ms=300, latency_p95_ms=2000.5),
        "good": EndpointHealth(latency_p95_ms=2000),
    }
    answer = asked(routes, "policy:p", health=health)
    assert order(answer) == ["good", "new"]
    assert reasons(answer) == {"slow": "its p95 is 2000 ms, the limit is 2000 ms"}
    assert whys(answer)[1] == "estimated cost in pico-units; p95 not measured yet"


def test_where_all_are_measured_too_slow_or_too_unreliable_the_call_is_refused() -> None:
    slow = {"a": EndpointHealth(latency_p95_ms=3000, success=0.5, samples=10)}
    error = refused(ruled({"max_p95_ms": 2000}), "policy:p", health=slow)
    assert (error.code, error.status) == ("provider_unavailable", 502)
    assert error.message == "No target of 'policy:p' is now as fast as the policy p@3 asks."
    assert isinstance(error, NoTarget)
    assert [dropped.reason for dropped in error.dropped] == ["its p95 is 3000 ms, the limit is 2000 ms"]
    error = refused(ruled({"min_success": 0.9}), "policy:p", health=slow)
    assert error.message == "No target of 'policy:p' is now as reliable as the policy p@3 asks."


def test_success_below_the_limit_is_left_out() -> None:
    routes = ruled({"min_success": 0.95}, target("bad"), target("edge"), target("new"))
    health = {
        "bad": EndpointHealth(success=0.949, samples=1000),
        "edge": EndpointHealth(success=0.95, samples=1000),
    }
    answer = asked(routes, "policy:p", health=health)
    assert order(answer) == ["edge", "new"]
    assert reasons(answer) == {"bad": "94.90% of its attempts succeed, 95.00% are asked for"}


@pytest.mark.parametrize(
    ("constraints", "left", "reason"),
    [
        ({"allow": {"models": ["m"]}}, ["a", "b"], "not among the models the policy allows"),
        ({"allow": {"models": ["acme/m-1"]}}, ["a", "c"], "not among the models the policy allows"),
        ({"allow": {"providers": ["other"]}}, ["b"], "its provider is not among those the policy allows"),
        ({"deny": {"models": ["n"]}}, ["a", "b"], "the policy denies the model"),
        ({"deny": {"models": ["other/m"]}}, ["a", "c"], "the policy denies the model"),
        ({"deny": {"providers": ["other"]}}, ["a", "c"], "the policy denies its provider"),
    ],
)
def test_a_policy_allows_and_denies_models_and_providers(
    constraints: dict[str, Any], left: list[str], reason: str
) -> None:
    targets = [target("a"), target("b", provider="other"), target("c", model="n")]
    answer = asked(ruled(constraints, *targets), "policy:p")
    assert order(answer) == left
    assert set(reasons(answer).values()) == {reason}


def test_a_policy_that_allows_no_target_says_so() -> None:
    error = refused(ruled({"allow": {"models": []}}), "policy:p")
    assert (error.code, error.param) == ("model_not_allowed", "model")
    assert error.message == "No target of 'policy:p' is allowed by the policy p@3."


@pytest.mark.parametrize(
    ("constraints", "kind"),
    [
        ({"allow": {"tenants": ["umbrella"]}}, "tenant"),
        ({"allow": {"tenants": []}}, "tenant"),
        ({"deny": {"tenants": ["acme"]}}, "tenant"),
        ({"deny": {"tenants": [str(TENANT)]}}, "tenant"),
        ({"allow": {"plans": ["enterprise"]}}, "plan"),
        ({"deny": {"plans": ["free"]}}, "plan"),
        ({"deny": {"keys": [str(KEY)]}}, "key"),
        ({"allow": {"keys": [str(STRANGER)]}}, "key"),
        ({"allow": {"features": ["summary"]}}, "feature"),
        ({"deny": {"features": ["chat"]}}, "feature"),
    ],
)
def test_a_policy_keeps_callers_out_by_tenant_plan_key_and_feature(
    constraints: dict[str, Any], kind: str
) -> None:
    error = refused(ruled(constraints), "policy:p", plan="free", feature="chat")
    assert (error.code, error.param) == ("model_not_allowed", "model")
    assert error.message == f"The policy p@3 does not allow 'policy:p' to this {kind}."


@pytest.mark.parametrize(
    "constraints",
    [
        {"allow": {"tenants": ["acme"], "plans": ["free"], "keys": [str(KEY)], "features": ["chat"]}},
        {"allow": {"tenants": [str(TENANT)]}, "deny": {"tenants": ["umbrella"], "keys": [str(STRANGER)]}},
    ],
)
def test_a_policy_lets_in_whom_it_allows(constraints: dict[str, Any]) -> None:
    assert order(asked(ruled(constraints), "policy:p", plan="free", feature="chat")) == ["a"]


def test_one_key_let_in_opens_nothing_to_the_next() -> None:
    routes = ruled({"allow": {"keys": [str(KEY)]}})
    assert order(asked(routes, "policy:p")) == ["a"]
    assert refused(routes, "policy:p", api_key_id=STRANGER).code == "model_not_allowed"
    assert refused(routes, "policy:p", api_key_id=None).code == "model_not_allowed"


def test_data_rules_take_silence_for_the_worst() -> None:
    targets = [
        target("silent"),
        target("trains", trains_on_data=True, retention_days=0),
        target("keeps", trains_on_data=False, retention_days=30),
        target("clean", trains_on_data=False, retention_days=0),
    ]
    answer = asked(ruled({"data": {"training": "deny", "retention_days": 0}}, *targets), "policy:p")
    assert order(answer) == ["clean"]
    assert reasons(answer) == {
        "silent": "may train on what it is sent",
        "trains": "may train on what it is sent",
        "keeps": "keeps content for 30 days",
    }
    untold = asked(ruled({"data": {"retention_days": 30}}, *targets), "policy:p")
    assert reasons(untold) == {"silent": "does not say how long it keeps content"}
    error = refused(ruled({"data": {"training": "deny"}}, targets[0]), "policy:p")
    assert (error.code, "data rules" in error.message) == ("model_not_allowed", True)
