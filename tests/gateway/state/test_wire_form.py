"""The wire form of closed calls: what an older worker has put on the stream is still understood."""

import orjson
import pytest
from django.conf import settings

from gateway.pipeline.record import decode, encode_unknown
from tenants.ids import uuid7

ONE = "00000000-0000-0000-0000-000000000001"
SHARED = (ONE, ONE, ONE, "USD", "search", "ann", "chat", "m", "", "p@1", False)
ATTEMPT = (
    1, "m", "openai", "gpt", ONE, "eu", "ok", "", 200, "provider", {"input": 10, "output": 5}, 7, "USD", 9,
    {"input": 3, "output": 4}, 120, 40,
)  # fmt: skip
LOG = (200, "", "", "stop", "m", {}, 130, {})


def test_a_record_of_version_1_is_usage_without_an_arm():
    closed = decode(orjson.dumps((1, str(uuid7()), SHARED, [ATTEMPT], LOG)))
    (row,) = closed.rows
    assert (row.kind, row.is_final, row.is_byok, row.cost_pico, row.price_pico) == (
        "usage",
        True,
        False,
        7,
        9,
    )
    assert closed.log is not None
    assert (closed.log.experiment, closed.log.arm) == ("", "")
    assert closed.sample is None


def test_version_2_tells_kind_arm_and_own_credential():
    shared = (*SHARED, "usage", "sizes", "large")
    closed = decode(orjson.dumps((2, str(uuid7()), shared, [(*ATTEMPT, True)], LOG, None)))
    assert closed.rows[0].is_byok
    assert closed.log is not None
    assert (closed.log.experiment, closed.log.arm) == ("sizes", "large")


def test_a_call_of_our_own_leaves_no_log_row():
    for kind in ("shadow", "eval"):
        shared = (*SHARED, kind, "", "")
        row = (*ATTEMPT[:13], 0, *ATTEMPT[14:], False)
        closed = decode(orjson.dumps((2, str(uuid7()), shared, [row], LOG, None)))
        assert (closed.log, closed.sample) == (None, None)
        assert (closed.rows[0].kind, closed.rows[0].is_final) == (kind, False)


def test_an_open_record_of_an_older_worker_is_closed_as_usage():
    opened = {
        "tenant": ONE, "key": ONE, "plan_version": ONE, "price_currency": "USD", "feature": "", "end_user": "",
        "operation": "chat", "request_model": "m", "policy": "", "is_stream": False, "attempt": 2,
        "endpoint": ONE, "provider": "openai", "provider_model": "gpt", "model": "m", "region": "eu",
        "cost_currency": "USD", "worst_cost_pico": 99, "earlier": [ATTEMPT],
    }  # fmt: skip
    closed = decode(encode_unknown(str(uuid7()), opened))
    assert [(row.kind, row.status, row.is_final, row.is_byok) for row in closed.rows] == [
        ("usage", "ok", False, False),
        ("usage", "unknown", True, False),
    ]


def test_version_3_tells_where_the_tenants_data_may_go():
    shared = (*SHARED, "usage", "", "", "ch,eu", False)
    closed = decode(orjson.dumps((3, str(uuid7()), shared, [(*ATTEMPT, False)], LOG, None)))
    assert closed.log is not None
    assert (closed.rows[0].tenant_regions, closed.log.tenant_regions) == ("ch,eu", "ch,eu")
    assert closed.log.kept_in == settings.TOLLHOUSE_REGION


def test_older_records_do_not_claim_to_know_the_tenants_regions():
    two = decode(orjson.dumps((2, str(uuid7()), (*SHARED, "usage", "", ""), [(*ATTEMPT, True)], LOG, None)))
    one = decode(orjson.dumps((1, str(uuid7()), SHARED, [ATTEMPT], LOG)))
    assert (two.rows[0].tenant_regions, one.rows[0].tenant_regions) == (None, None)


def test_zero_retention_leaves_the_log_without_names_and_the_ledger_with_its_tags():
    shared = (*SHARED, "usage", "", "", "", True)
    log = (400, "invalid_request", "ann said no", "", "m", {"team": "core"}, 130, {})
    closed = decode(orjson.dumps((3, str(uuid7()), shared, [(*ATTEMPT, False)], log, None)))
    assert closed.log is not None
    assert (closed.log.end_user, closed.log.tags, closed.log.error_message) == ("", {}, "")
    assert closed.log.error_code == "invalid_request"
    assert (closed.rows[0].end_user, closed.rows[0].tags) == ("ann", {"team": "core"})


@pytest.mark.parametrize("version", [0, 4, "3"])
def test_an_unknown_version_is_refused(version):
    with pytest.raises(ValueError, match="this code knows 1 to 3"):
        decode(orjson.dumps((version, str(uuid7()), SHARED, [], LOG)))
