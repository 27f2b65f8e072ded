"""The event parser against httpx-sse, split everywhere."""

from itertools import pairwise

import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from hypothesis import given
from hypothesis import strategies as st

from routing.providers import sse
from routing.providers.sse import EventTooLarge, SSEParser

STREAM = (
    ": keep-alive\n\n"
    'event: message_start\ndata: {"a": 1}\n\n'
    "data: first\ndata: second\n\n"
    "data:no space\n\n"
    "id: 7\nretry: 10\ndata: ünïcödé 🎈\n\n"
    "data\n\n"
    "unknown: field\ndata: [DONE]\n\n"
)


def parsed(pieces: list[bytes]) -> list[tuple[str, str]]:
    parser = SSEParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return [(name or "message", data.decode()) for name, data in events + parser.rest()]


def by_oracle(text: str) -> list[tuple[str, str]]:
    """httpx-sse's reading; it also dispatches blocks without any data line, which the standard ignores."""
    lines, decoder, events = SSELineDecoder(), SSEDecoder(), []
    had_data = False
    for line in [*lines.decode(text), *lines.flush()]:
        had_data |= line.partition(":")[0] == "data"
        event = decoder.decode(line)
        if not line:
            if event is not None and had_data:
                events.append((event.event, event.data))
            had_data = False
    return events


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_reads_the_same_events_wherever_the_bytes_are_split(ending, mark):
    text = STREAM.replace("\n", ending)
    raw = (mark + text).encode()
    expected = by_oracle(text)
    assert len(expected) == 6
    for cut in range(len(raw) + 1):
        assert parsed([raw[:cut], raw[cut:]]) == expected
    assert parsed([raw[i : i + 1] for i in range(len(raw))]) == expected


LINES = st.sampled_from(["data: x", "data:", "data", "data: [1]", "event: e", ": c", "", "", "id: 1", "odd"])
ENDINGS = st.sampled_from(["\n", "\r\n", "\r"])


@given(st.lists(st.tuples(LINES, ENDINGS)), st.lists(st.integers(0, 200), max_size=6))
def test_agrees_with_httpx_sse_on_any_stream_of_lines(lines, cuts):
    text = "".join(line + ending for line, ending in lines) + "\n\n"
    raw = text.encode()
    marks = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    pieces = [raw[a:b] for a, b in pairwise(marks)]
    assert parsed(pieces) == by_oracle(text)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_give_the_same_events_in_one_piece_or_two(raw, cut):
    def events(pieces):
        parser = SSEParser()
        return [e for piece in pieces for e in parser.feed(piece)] + parser.rest()

    assert events([raw[:cut], raw[cut:]]) == events([raw])


def test_gives_back_what_a_stream_left_without_its_blank_line():
    parser = SSEParser()
    assert parser.feed(b'data: {"a":1}') == []
    assert parser.rest() == [("", b'{"a":1}')]
    assert parser.rest() == []


def test_refuses_an_event_that_outgrows_the_bound(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 10)
    parser = SSEParser()
    assert parser.feed(b"data: 1234") == []
    with pytest.raises(EventTooLarge):
        parser.feed(b"5")
