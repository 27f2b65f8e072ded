"""The one client for addresses that come from outside: resolve, judge every address, connect to that one.

Must never follow a redirect, read proxy settings from the environment, or decide by the text of a host name.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import httpx
from asgiref.sync import async_to_sync

from tenants.errors import ApiError

type Resolver = Callable[[str, int], Sequence[str]]
"""Host and port to addresses. Raises OSError."""

ANY_HOST: Final = frozenset({"*"})
"""For the operator's own providers: self-hosted models sit on private and loopback addresses."""

DEFAULT_TIMEOUT_S: Final = 10.0
DEFAULT_MAX_BYTES: Final = 4 * 1024 * 1024
MAX_ADDRESSES: Final = 4
_MAX_URL_CHARACTERS: Final = 2000

# https://www.iana.org/assignments/iana-ipv4-special-registry and multicast, class E.
_NOT_PUBLIC_4: Final = tuple(
    IPv4Network(each)
    for each in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
        "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
# https://www.iana.org/assignments/iana-ipv6-special-registry: only 2000::/3 is routed to the world, and of
# that not the protocol assignments (with Teredo), documentation, and 6to4. Everything else is refused: so
# are fec0::/10, 5f00::/16 (SRv6), v4-compatible ::/96 and the local NAT64 prefix 64:ff9b:1::/48.
_PUBLIC_6: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_6: Final = tuple(
    IPv6Network(each)
    for each in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
_NAT64: Final = IPv6Network("64:ff9b::/96")

_PRIVATE_4: Final = tuple(
    IPv4Network(each)
    for each in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
)
_PRIVATE_6: Final = (IPv6Network("::1/128"), IPv6Network("fc00::/7"))
# Cloud metadata services that live inside the ranges an operator may open. 169.254.0.0/16 is never open.
_METADATA: Final = frozenset({IPv4Address("100.100.100.200"), IPv6Address("fd00:ec2::254")})


@dataclass(frozen=True, slots=True)
class CheckedUrl:
    """A URL whose every address was judged. Connect to these addresses and to no others."""

    host: str
    port: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EgressReply:
    """A whole answer, header names in lower case. A redirect is an answer like any other."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class EgressError(Exception):
    """The other side was not reached, or did not answer within the limits. `kind` is an ErrorKind's value."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def resolve(host: str, port: int) -> Sequence[str]:
    """The system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def check_url(
    url: str, *, allow_private_hosts: Collection[str], resolver: Resolver = resolve, param: str = "url"
) -> CheckedUrl:
    """Judge a URL and every address its host has now.

    `allow_private_hosts` (the setting TOLLHOUSE_EGRESS_ALLOWED_HOSTS, or ANY_HOST) names hosts, or host:port,
    that may be private, plain http and on any port. Raises ApiError url_not_allowed about `param`.
    """
    parsed = _parse(url, param)
    host = parsed.raw_host.decode("ascii").rstrip(".")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    is_open = bool({"*", host, f"{host}:{port}"} & set(allow_private_hosts))
    if not is_open and (parsed.scheme != "https" or port != 443):
        raise _refused("only https on port 443 is allowed", param)
    try:
        found = resolver(host, port)
    except (OSError, UnicodeError) as error:
        raise _refused("its host name does not resolve", param) from error
    if not found:
        raise _refused("its host name does not resolve", param)
    for address in found:
        if not may_connect(address, is_private_allowed=is_open):
            raise _refused("its host is on an address that is not public", param)
    return CheckedUrl(host, port, tuple(found))


def check_form(url: str, *, param: str = "url") -> None:
    """Judge a URL by its form alone, for the operator's own addresses. Raises ApiError url_not_allowed."""
    _parse(url, param)


def may_connect(address: str, *, is_private_allowed: bool) -> bool:
    """Whether a connection to this address may be made.

    Link-local, multicast, reserved and metadata addresses are refused even where private ones are allowed.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        if parsed.scope_id is not None:
            return False
        # Both carry an IPv4 address, which is where the packet goes.
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif parsed in _NAT64:
            parsed = IPv4Address(int(parsed) & 0xFFFFFFFF)
    if parsed in _METADATA:
        return False
    if isinstance(parsed, IPv4Address):
        is_public = not any(parsed in network for network in _NOT_PUBLIC_4)
        is_private = any(parsed in network for network in _PRIVATE_4)
    else:
        is_public = parsed in _PUBLIC_6 and not any(parsed in network for network in _NOT_PUBLIC_6)
        is_private = any(parsed in network for network in _PRIVATE_6)
    return is_public or (is_private and is_private_allowed)


def fetch(
    method: str,
    url: str,
    *,
    allow_private_hosts: Collection[str],
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    timeout_s: float = DEFAULT_TIMEOUT_S,
    max_bytes: int = DEFAULT_MAX_BYTES,
    is_cut_allowed: bool = False,
    resolver: Resolver = resolve,
) -> EgressReply:
    """One request to a judged address, within `timeout_s` for everything and `max_bytes` of answer.

    A longer answer is an error, or with `is_cut_allowed` read no further: for who only wants the status.
    Raises ApiError url_not_allowed, EgressError.
    """

    async def bounded() -> EgressReply:
        try:
            async with asyncio.timeout(timeout_s):
                checked = await asyncio.to_thread(
                    check_url, url, allow_private_hosts=allow_private_hosts, resolver=resolver
                )
                return await _send(
                    method, url, checked, headers, body, timeout_s, max_bytes, is_cut_allowed=is_cut_allowed
                )
        except TimeoutError as error:
            raise EgressError("timeout", f"No answer within {timeout_s:g} s.") from error

    return async_to_sync(bounded)()


async def _send(
    method: str,
    url: str,
    checked: CheckedUrl,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    timeout_s: float,
    max_bytes: int,
    *,
    is_cut_allowed: bool,
) -> EgressReply:
    original = httpx.URL(url)
    # The answer is read as it comes: a small compressed body must not grow beyond the limit.
    own = [("Host", original.netloc.decode("ascii")), ("Accept-Encoding", "identity")]
    failure: httpx.TransportError | None = None
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout_s) as client:
        for address in checked.addresses[:MAX_ADDRESSES]:
            request = client.build_request(
                method,
                original.copy_with(host=address),
                headers=[*own, *headers],
                content=body,
                # The certificate must be the name's, though the connection goes to the address.
                extensions={"sni_hostname": checked.host},
            )
            try:
                response = await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
                continue
            except httpx.TransportError as error:
                raise _failure(error) from error
            try:
                return await _read(response, max_bytes, is_cut_allowed=is_cut_allowed)
            except httpx.TransportError as error:
                raise _failure(error) from error
            finally:
                await response.aclose()
    if failure is None:
        raise EgressError("connection", "The host has no address.")
    raise _failure(failure) from failure


async def _read(response: httpx.Response, max_bytes: int, *, is_cut_allowed: bool) -> EgressReply:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            if is_cut_allowed:
                del body[max_bytes:]
                break
            raise EgressError("invalid_response", f"The answer is longer than {max_bytes} bytes.")
    return EgressReply(response.status_code, {k.lower(): v for k, v in response.headers.items()}, bytes(body))


def _failure(error: httpx.TransportError) -> EgressError:
    if isinstance(error, httpx.TimeoutException):
        return EgressError("timeout", "The connection timed out.")
    if isinstance(error, httpx.RemoteProtocolError):
        return EgressError("invalid_response", f"The answer is not HTTP: {error}.")
    return EgressError("connection", f"The connection failed: {error or type(error).__name__}.")


def _parse(url: str, param: str) -> httpx.URL:
    """Parsed once, by the library that will send it. Raises ApiError url_not_allowed."""
    if not url.isascii() or not url.isprintable() or len(url) > _MAX_URL_CHARACTERS:
        raise _refused("it holds characters that do not belong there", param)
    if "\\" in url or " " in url:
        raise _refused("it holds characters that do not belong there", param)
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise _refused("it is not a URL", param) from error
    if parsed.scheme not in ("http", "https") or not parsed.raw_host:
        raise _refused("it is not an https URL", param)
    # The library forgets an empty user name; nobody writes one in good faith.
    authority = re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if parsed.userinfo or "@" in authority:
        raise _refused("it carries a user name or password", param)
    if parsed.fragment:
        raise _refused("it carries a fragment", param)
    return parsed


def _refused(reason: str, param: str) -> ApiError:
    return ApiError("url_not_allowed", f"This URL cannot be used: {reason}.", param=param)
