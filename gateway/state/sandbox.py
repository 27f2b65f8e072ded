"""Plays the sandbox provider's scripts in this process, behind the same two methods as the HTTP client.

The sandbox is offline, so its "network" is a timer; its failures look exactly like a real provider's.
"""

import asyncio

from gateway.state.clients import ClientCut, ClientTimeout, ClientTooLarge, WholeResponse
from routing.providers.sandbox_engine import SandboxScript, answer
from routing.types import WireRequest


class SandboxStream:
    """A played script as a streamed response."""

    def __init__(self, script: SandboxScript, *, stall_timeout_s: float) -> None:
        self.status = script.status
        self.headers = dict(script.headers)
        self._steps = iter(script.steps)
        self._end = script.end
        self._stall_timeout_s = stall_timeout_s
        self._head_delay_s = script.head_delay_s

    async def read(self) -> bytes:
        """The next piece, b"" at the clean end. Raises ClientCut and ClientTimeout like a real stream."""
        step = next(self._steps, None)
        if step is None:
            return await self._finish()
        await _wait(step.delay_s, self._stall_timeout_s, "stall")
        return step.data

    async def read_all(self, limit: int) -> bytes:
        body = b""
        while piece := await self.read():
            body += piece
            if len(body) > limit:
                raise ClientTooLarge("body")
        return body

    async def aclose(self) -> None:
        self._steps = iter(())
        self._end = "close"

    async def _finish(self) -> bytes:
        if self._end == "reset":
            raise ClientCut
        if self._end == "hang":
            await _wait(float("inf"), self._stall_timeout_s, "stall")
        return b""

    async def first_byte(self, timeout_s: float) -> None:
        """Wait for the head, as long as a client would."""
        await _wait(self._head_delay_s, timeout_s, "first_byte")


class SandboxClient:
    """The sandbox's side of `HttpClient`."""

    async def open(
        self, request: WireRequest, *, first_byte_timeout_s: float, stall_timeout_s: float
    ) -> SandboxStream:
        stream = SandboxStream(answer(request), stall_timeout_s=stall_timeout_s)
        await stream.first_byte(first_byte_timeout_s)
        return stream

    async def send(
        self, request: WireRequest, *, first_byte_timeout_s: float, total_timeout_s: float
    ) -> WholeResponse:
        stream = await self.open(
            request, first_byte_timeout_s=first_byte_timeout_s, stall_timeout_s=total_timeout_s
        )
        return WholeResponse(stream.status, stream.headers, await stream.read_all(64 * 1024 * 1024))


async def _wait(delay_s: float, limit_s: float, phase: str) -> None:
    await asyncio.sleep(min(delay_s, limit_s)) if delay_s else None
    if delay_s > limit_s:
        raise ClientTimeout(phase)  # type: ignore[arg-type]  # the callers name phases of the client
