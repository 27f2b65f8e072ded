"""Sewing a second answer onto what a client has seen of the first."""

import orjson

from gateway.pipeline.recover import Shown


def chunk(delta, *, finish=None, name="first"):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return orjson.dumps({"id": name, "object": "chat.completion.chunk", "created": 1, "choices": [choice]})


def seen(*texts):
    shown = Shown()
    for text in texts:
        shown.note(chunk({"content": text}))
    return shown


def stitched(shown, delta, **more):
    made = shown.stitch(chunk(delta, name="second", **more))
    return made and orjson.loads(made)


def test_a_later_chunk_carries_the_first_answers_id():
    made = stitched(seen("one"), {"content": " two"})
    assert (made["id"], made["choices"][0]["delta"]) == ("first", {"content": " two"})


def test_the_role_is_not_said_twice():
    assert stitched(seen("one"), {"role": "assistant", "content": ""}) is None
    assert stitched(seen("one"), {"role": "assistant", "content": "x"})["choices"][0]["delta"] == {
        "content": "x"
    }


def test_the_reason_of_the_end_is_kept():
    assert stitched(seen("one"), {}, finish="stop")["choices"][0]["finish_reason"] == "stop"


def test_doubled_white_space_is_taken_out_once_and_later_white_space_stays():
    shown = seen("one ")
    shown.is_space_doubled = True
    texts = [
        stitched(shown, {"content": text})["choices"][0]["delta"]["content"] for text in (" if:", "\n    x")
    ]
    assert texts == ["if:", "\n    x"]


def test_text_is_gathered_and_anything_else_cannot_be_carried_on():
    shown = seen("one", " two")
    assert ("".join(shown.texts), shown.is_text) == ("one two", True)
    shown.note(chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{"}}]}))
    assert not shown.is_text
