"""Operations without tokens: their units, and who refuses them."""

from typing import Any

import pytest

from routing.providers.adapters import adapter_for
from routing.providers.media import physical_units
from routing.registry import DIALECTS
from routing.types import PRICED_BY, TEXTLESS, Operation, ProviderKind, UnsupportedParameter
from tests.routing.providers.factories import a_target

BODIES: dict[Operation, dict[str, Any]] = {
    Operation.MODERATIONS: {"model": "m", "input": "x"},
    Operation.RERANK: {"model": "m", "query": "q", "documents": ["x"]},
}


@pytest.mark.parametrize(("count", "searches"), [(1, 1), (100, 1), (101, 2), (10_000, 100)])
def test_every_hundred_documents_are_one_search(count: int, searches: int) -> None:
    assert physical_units(Operation.RERANK, {"documents": ["x"] * count}) == {"searches": searches}


def test_a_moderation_is_one_request_however_much_it_reads() -> None:
    assert physical_units(Operation.MODERATIONS, {"input": ["x"] * 50}) == {"requests": 1}


def test_what_has_tokens_has_no_other_units() -> None:
    assert physical_units(Operation.CHAT, {}) == physical_units(Operation.EMBEDDINGS, {}) == {}


def test_each_operation_without_tokens_writes_no_text_and_has_its_one_unit() -> None:
    assert PRICED_BY.keys() == BODIES.keys() <= TEXTLESS
    for operation, component in PRICED_BY.items():
        assert physical_units(operation, BODIES[operation]).keys() == {component}


@pytest.mark.parametrize("operation", list(BODIES))
@pytest.mark.parametrize("kind", list(ProviderKind))
def test_a_dialect_sends_what_it_offers_and_refuses_the_rest(
    kind: ProviderKind, operation: Operation
) -> None:
    def build() -> str:
        return adapter_for(kind).build_request(operation, BODIES[operation], a_target(kind), stream=False).url

    if operation in DIALECTS[kind].operations:
        assert build().endswith(f"/{operation}")
    else:
        with pytest.raises(UnsupportedParameter):
            build()
