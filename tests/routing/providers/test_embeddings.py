"""Vectors change encoding without changing value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.providers.embeddings import decode, embeddings_as, encode

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(FLOATS)
def test_float32_values_survive_base64(vector):
    assert decode(encode(vector)) == vector


def test_only_vectors_in_the_wrong_encoding_are_changed():
    document = {"data": [{"embedding": [0.5, -2.0]}, {"embedding": "AAAAPw=="}]}
    assert embeddings_as("base64", document) is True
    assert document == {"data": [{"embedding": "AAAAPwAAAMA="}, {"embedding": "AAAAPw=="}]}
    assert embeddings_as("base64", document) is False
    assert embeddings_as(None, document) is True
    assert document == {"data": [{"embedding": [0.5, -2.0]}, {"embedding": [0.5]}]}


@pytest.mark.parametrize("text", ["###", "AAA=", "AAAAAAA="])
def test_refuses_text_that_is_not_whole_float32_values(text):
    with pytest.raises(ValueError, match="embedding"):
        decode(text)


def test_refuses_vectors_of_something_else():
    with pytest.raises(ValueError, match="not a float32"):
        encode(["a"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="not a float32"):
        encode([1e300])
