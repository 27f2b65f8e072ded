"""Name resolution for addresses that a tenant has given: only those that may be connected to.

The client connects to exactly the addresses returned here, so a name that changes its mind between check and
connection (DNS rebinding) gains nothing. Must never be asked for the operator's own addresses.
"""

import asyncio
import socket
from collections.abc import Collection, Sequence

from gateway.state.clients import Address, ClientConnectError, Resolver
from tenants.egress import may_connect


def guarded(allowed_hosts: Collection[str]) -> Resolver:
    """A resolver for `HttpClient`. `allowed_hosts` (host or host:port) may be private and on any port.

    It raises ClientConnectError for a host one of whose addresses may not be connected to.
    """

    async def resolve(host: str, port: int) -> Sequence[Address]:
        is_open = bool({host, f"{host}:{port}"} & set(allowed_hosts))
        if not is_open and port != 443:
            raise ClientConnectError("not_allowed")
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys((str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in found))
        if not all(may_connect(address, is_private_allowed=is_open) for address, _ in addresses):
            raise ClientConnectError("not_allowed")
        return addresses

    return resolve
