from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.content.seal import CUT_MARK, ContentBrokenError, Texts, opened, sealed, texts_of

KEY, OTHER = AESGCM(bytes(32)), AESGCM(bytes(31) + b"\x01")
TENANT, CALL = UUID(int=1), UUID(int=2)
TEXTS = Texts('{"q": "where?"}', "there", is_stream=True, request_bytes=15, answer_bytes=5)


def test_what_is_sealed_opens_for_its_call_alone():
    blob = sealed(TEXTS, KEY, tenant_id=TENANT, request_id=CALL)
    assert b"where" not in blob
    assert opened(blob, KEY, tenant_id=TENANT, request_id=CALL) == TEXTS
    for key, tenant_id, request_id in ((OTHER, TENANT, CALL), (KEY, CALL, CALL), (KEY, TENANT, TENANT)):
        with pytest.raises(ContentBrokenError):
            opened(blob, key, tenant_id=tenant_id, request_id=request_id)


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b"\x02" + b[1:], lambda b: b"", lambda b: b[:13]]
)
def test_what_was_altered_does_not_open(change):
    blob = change(sealed(TEXTS, KEY, tenant_id=TENANT, request_id=CALL))
    with pytest.raises(ContentBrokenError):
        opened(blob, KEY, tenant_id=TENANT, request_id=CALL)


def test_the_same_texts_are_sealed_differently_each_time():
    one, two = (sealed(TEXTS, KEY, tenant_id=TENANT, request_id=CALL) for _ in range(2))
    assert one != two


def test_what_is_too_long_is_cut_at_a_character_and_marked():
    texts = texts_of("äöü".encode(), b"ok", answer_bytes=2, is_stream=False, max_bytes=3)
    assert texts == Texts("ä" + CUT_MARK, "ok", request_bytes=6, answer_bytes=2, is_cut=True)
    whole = texts_of(b"abc", b"", answer_bytes=0, is_stream=False, max_bytes=3)
    assert (whole.request, whole.is_cut) == ("abc", False)


def test_an_answer_that_was_cut_on_the_way_says_so():
    texts = texts_of(b"{}", b"abcd", answer_bytes=900, is_stream=True, max_bytes=3)
    assert (texts.answer, texts.answer_bytes, texts.is_cut) == ("abc" + CUT_MARK, 900, True)
