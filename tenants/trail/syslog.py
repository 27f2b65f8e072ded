"""Syslog over TCP and TLS: RFC 5424 messages in octet-counted frames (RFC 6587, RFC 5425).

Must never connect to an address that was not judged, nor report as taken what the other side may not have read.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from tenants import egress
from tenants.errors import ApiError

SCHEMES: Final = {"syslog+tls": 6514, "syslog+tcp": 601}
_PRIORITY: Final = 13 * 8 + 5  # facility 13 (log audit), severity 5 (notice)
_BOM: Final = b"\xef\xbb\xbf"  # RFC 5424 6.4: what follows is UTF-8
_ENTERPRISE: Final = "tollhouse@32473"  # the enterprise number of examples (RFC 5612); we have none


class SyslogError(Exception):
    """The messages were not taken, or nobody knows that they were: send them again."""


@dataclass(frozen=True, slots=True)
class Target:
    """A syslog server: `is_tls` verifies the certificate for `host`."""

    host: str
    port: int
    is_tls: bool


def target_of(url: str, *, param: str = "target") -> Target:
    """Read `syslog+tls://host[:port]` or `syslog+tcp://host[:port]`. Raises ApiError url_not_allowed."""
    try:
        parsed = urlsplit(url)
        port = parsed.port
    except ValueError as error:
        raise _refused(param) from error
    has_more = parsed.path not in ("", "/") or parsed.query or parsed.fragment or parsed.username is not None
    if parsed.scheme not in SCHEMES or not parsed.hostname or has_more or port == 0 or not url.isascii():
        raise _refused(param)
    return Target(parsed.hostname, port or SCHEMES[parsed.scheme], parsed.scheme == "syslog+tls")


def _refused(param: str) -> ApiError:
    return ApiError(
        "url_not_allowed",
        "A syslog server is syslog+tls://host:port, or syslog+tcp://host:port.",
        param=param,
    )


def check(
    target: Target,
    *,
    allow_private_hosts: Collection[str],
    resolver: egress.Resolver = egress.resolve,
    param: str = "target",
) -> tuple[str, ...]:
    """The judged addresses of the server. Clear text goes to hosts that are named as allowed alone.

    Raises ApiError url_not_allowed.
    """
    is_open = bool({"*", target.host, f"{target.host}:{target.port}"} & set(allow_private_hosts))
    if not target.is_tls and not is_open:
        raise ApiError("url_not_allowed", "The audit trail leaves over TLS only.", param=param)
    try:
        found = resolver(target.host, target.port)
    except (OSError, UnicodeError) as error:
        raise ApiError("url_not_allowed", "The host name does not resolve.", param=param) from error
    if not found or not all(egress.may_connect(each, is_private_allowed=is_open) for each in found):
        raise ApiError("url_not_allowed", "The host is on an address that is not public.", param=param)
    return tuple(found)


def message(*, at: datetime, host: str, action: str, chain: str, sequence: int, body: bytes) -> bytes:
    """One RFC 5424 message; `body` is UTF-8. Chain and sequence let the receiver drop what comes twice."""
    stamp = at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    name = "".join(c for c in action if c.isascii() and c.isprintable() and c != " ")[:32] or "-"
    hostname = "".join(c for c in host if c.isascii() and c.isprintable() and c != " ")[:255] or "-"
    data = f'[{_ENTERPRISE} chain="{chain}" sequence="{sequence}"]'
    head = f"<{_PRIORITY}>1 {stamp} {hostname} tollhouse - {name} {data} "
    return head.encode() + _BOM + body


def frame(text: bytes) -> bytes:
    """Octet counting: the length, a space, the message."""
    return str(len(text)).encode() + b" " + text


def send(
    target: Target, addresses: Sequence[str], messages: Sequence[bytes], *, timeout_s: float, ca_pem: str = ""
) -> None:
    """Send all, say that there is no more, and wait until the server has closed: only then has it read them.

    Syslog knows no other acknowledgement. Raises SyslogError.
    """
    deadline = time.monotonic() + timeout_s
    try:
        context = ssl.create_default_context(cadata=ca_pem or None) if target.is_tls else None
        with contextlib.closing(_connect(target, addresses, deadline)) as plain:
            if context is None:
                plain.sendall(b"".join(map(frame, messages)))
                plain.shutdown(socket.SHUT_WR)
                _read_to_end(plain, deadline)
                return
            with context.wrap_socket(plain, server_hostname=target.host) as secure:
                secure.sendall(b"".join(map(frame, messages)))
                _end_tls(secure)
    except (OSError, ValueError) as error:  # ValueError: a certificate that is none
        raise SyslogError(f"The syslog server did not take it: {_words(error)}.") from error


def _words(error: Exception) -> str:
    return "it did not answer in time" if isinstance(error, TimeoutError) else str(error)[:200]


def _connect(target: Target, addresses: Sequence[str], deadline: float) -> socket.socket:
    failure: OSError = OSError("no address")
    for address in addresses[: egress.MAX_ADDRESSES]:
        try:
            made = socket.create_connection((address, target.port), timeout=_left(deadline))
        except OSError as error:
            failure = error
            continue
        made.settimeout(_left(deadline))
        return made
    raise failure


def _left(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _read_to_end(plain: socket.socket, deadline: float) -> None:
    while True:
        plain.settimeout(_left(deadline))
        if not plain.recv(4096):
            return


def _end_tls(secure: ssl.SSLSocket) -> None:
    """Send close_notify and wait for the server's, or for its FIN: many leave without one."""
    with contextlib.suppress(ssl.SSLEOFError, ssl.SSLZeroReturnError):
        secure.unwrap()
