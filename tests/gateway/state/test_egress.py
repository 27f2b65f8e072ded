"""Connections to addresses that a tenant has given: judged at every connection, on the address that is used."""

import pytest

from gateway.state.clients import ClientConnectError, HttpClient
from gateway.state.egress import guarded
from routing.types import WireRequest
from tests.fakes.http_server import reply, serve
from tests.gateway.state.conftest import Run


async def get(client, url):
    try:
        return await client.send(
            WireRequest(url, (), b"", method="GET"), first_byte_timeout_s=5, total_timeout_s=5
        )
    finally:
        await client.aclose()


async def hello(peer, request):
    await peer.send(reply(b"hello"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1"])
def test_a_private_address_is_not_connected_to_however_it_is_written(run: Run, host):
    with serve(hello) as server:
        with pytest.raises(ClientConnectError, match="not_allowed"):
            run(get(HttpClient(resolver=guarded(())), f"http://{host}:{server.port}/"))
        assert server.peers == []


def test_a_private_address_on_the_usual_port_is_not_connected_to(run: Run):
    with pytest.raises(ClientConnectError, match="not_allowed"):
        run(get(HttpClient(resolver=guarded(())), "https://127.0.0.1/"))


def test_a_metadata_address_stays_closed_where_private_hosts_are_open(run: Run):
    with pytest.raises(ClientConnectError, match="not_allowed"):
        run(get(HttpClient(resolver=guarded({"169.254.169.254"})), "http://169.254.169.254/"))


@pytest.mark.parametrize("allowed", ["localhost", "localhost:{port}"])
def test_the_operator_may_open_a_private_host(run: Run, allowed):
    with serve(hello) as server:
        client = HttpClient(resolver=guarded({allowed.format(port=server.port)}))
        assert run(get(client, f"http://localhost:{server.port}/")).body == b"hello"
