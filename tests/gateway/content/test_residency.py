import csv
import io
from datetime import timedelta

import pytest

from gateway.content.residency import csv_of, report
from tenants.errors import ApiError
from tests import factories
from tests.billing.ledger import NOON, put, record

pytestmark = pytest.mark.django_db

SPAN = {"start": NOON - timedelta(days=1), "end": NOON + timedelta(days=1), "now": NOON, "kept_in": "eu"}


def sent(tenant, when=NOON, **columns):
    columns = {"policy": "eu-only@3", "tenant_regions": "ch,eu", **columns}
    made = record(when, tenant_id=tenant.id, **columns)
    put(made)
    return made


def flows(found):
    return [
        (
            f.region,
            f.provider,
            f.policy,
            f.allowed_regions,
            f.purpose,
            f.calls,
            f.attempts,
            f.tokens,
            f.within,
        )
        for f in found.flows
    ]


def test_attempts_and_tokens_stand_by_region_provider_and_policy_version():
    acme = factories.tenant("acme", region_policy=["eu", "ch"])
    sent(acme)
    sent(acme)
    sent(acme, provider="azure", policy="eu-only@4")
    sent(factories.tenant("globex"))
    found = report(tenant=acme, **SPAN)
    assert flows(found) == [
        ("eu", "azure", "eu-only@4", "ch,eu", "usage", 1, 1, 155, True),
        ("eu", "openai", "eu-only@3", "ch,eu", "usage", 2, 2, 310, True),
    ]
    assert (found.attempts, found.tokens, found.outside, found.unrecorded) == (3, 465, 0, 0)
    assert (found.share_within, found.allowed_regions, found.strays) == (1.0, ["ch", "eu"], [])


def test_every_exception_is_listed_and_lowers_the_share():
    acme = factories.tenant("acme")
    for _ in range(3):
        sent(acme)
    stray = sent(acme, region="us", model="gpt-4o")
    nowhere = sent(acme, region="")
    found = report(tenant=acme, **SPAN)
    assert (found.outside, found.share_within, found.has_more_strays) == (2, 0.6, False)
    listed = {(s.request_id, s.region, s.provider, s.policy, s.allowed_regions) for s in found.strays}
    assert listed == {
        (stray.request_id, "us", "openai", "eu-only@3", "ch,eu"),
        (nowhere.request_id, "", "openai", "eu-only@3", "ch,eu"),
    }


def test_a_region_is_a_whole_name():
    acme = factories.tenant("acme")
    sent(acme, region="eu", tenant_regions="eu-west,ch")
    assert report(tenant=acme, **SPAN).outside == 1


def test_shadows_and_evaluations_send_data_too():
    acme = factories.tenant("acme")
    sent(acme, kind="shadow", is_final=False, price_pico=0, region="us")
    found = report(tenant=acme, **SPAN)
    assert [(f.purpose, f.within) for f in found.flows] == [("shadow", False)]
    assert [stray.kind for stray in found.strays] == ["shadow"]


def test_what_demanded_nothing_and_what_nobody_recorded_counts_for_no_share():
    acme = factories.tenant("acme")
    sent(acme, tenant_regions="")
    sent(acme, tenant_regions=None)
    found = report(tenant=acme, **SPAN)
    assert [(f.allowed_regions, f.within) for f in found.flows] == [(None, None), ("", None)]
    assert (found.share_within, found.unrecorded, found.outside, found.attempts) == (None, 1, 0, 2)


def test_a_correction_is_no_attempt_and_its_tokens_count_net():
    acme = factories.tenant("acme")
    lost = sent(acme, status="unknown", usage_source="unknown", input_tokens=0, cache_read_tokens=0,
                output_tokens=0, reasoning_tokens=0, cost_components=None)  # fmt: skip
    put(
        record(
            NOON, tenant_id=acme.id, request_id=lost.request_id, policy="eu-only@3", tenant_regions="ch,eu"
        )
    )
    found = report(tenant=acme, **SPAN)
    assert (found.attempts, found.tokens) == (1, 155)


def test_a_period_is_half_open_and_bounded():
    acme = factories.tenant("acme")
    sent(acme)
    assert report(tenant=acme, **SPAN | {"start": NOON, "end": NOON + timedelta(days=1)}).attempts == 1
    assert report(tenant=acme, **SPAN | {"end": NOON}).attempts == 0
    for start, end, param in ((NOON, NOON, "to"), (NOON - timedelta(days=2000), NOON, "from")):
        with pytest.raises(ApiError) as refused:
            report(tenant=acme, **SPAN | {"start": start, "end": end})
        assert (refused.value.code, refused.value.param) == ("invalid_request", param)


def test_the_file_holds_flows_and_exceptions_and_no_formula():
    acme = factories.tenant("acme")
    sent(acme, policy="=HYPERLINK(1)@1")
    stray = sent(acme, region="us")
    rows = list(csv.reader(io.StringIO(csv_of(report(tenant=acme, **SPAN)))))
    gap = rows.index([])
    assert rows[0] == [
        "region", "provider", "policy", "allowed_regions", "purpose", "calls", "attempts", "tokens", "within",
    ]  # fmt: skip
    assert ["eu", "openai", "'=HYPERLINK(1)@1", "ch,eu", "usage", "1", "1", "155", "yes"] in rows[:gap]
    assert rows[gap + 2][1:3] == [str(stray.request_id), "0"]
