"""The data plane's door, where no client can look: a stream whose client is gone before it begins."""

import asyncio

import pytest

from gateway.edge.door import Departure, Response, write


def test_a_stream_whose_head_cannot_be_sent_is_closed():
    ended = []

    async def pieces():
        try:
            yield b"first"
            yield b"second"
        finally:
            ended.append(True)

    async def gone(message):
        raise asyncio.CancelledError

    async def receive():
        await asyncio.sleep(60)

    async def play():
        stream = pieces()
        response = Response(200, [], await anext(stream), stream)
        departure = Departure(receive)
        try:
            await write(response, gone, departure)
        finally:
            departure.stop()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(play())
    assert ended == [True]
