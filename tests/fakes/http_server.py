"""A raw HTTP/1.1 server whose answers tests write down byte by byte: splits, cuts, stalls, resets.

It runs on an event loop in a thread of its own, so that the code under test may use any loop, or block.
It never answers by itself: the handler does, or nobody.
"""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import os
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Request:
    """What one request looked like on the wire. `connection` counts from 1."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int

    def header(self, name: str) -> str:
        """The only value of a header. Raises if it came never or twice."""
        (value,) = [value for key, value in self.headers if key.lower() == name]
        return value


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.number = number
        ssl_object = writer.get_extra_info("ssl_object")
        self.alpn: str | None = ssl_object and ssl_object.selected_alpn_protocol()
        self.socket: socket.socket = writer.get_extra_info("socket")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send(self, *pieces: bytes, gap_s: float = 0.0) -> None:
        """Each piece in a write of its own, `gap_s` apart."""
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(gap_s)
            self.writer.write(piece)
            await self.writer.drain()

    async def pause(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    async def wait_closed(self) -> None:
        """Until the client has closed its end, whatever it sends before."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def reset(self) -> None:
        """Close with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """Close with FIN, after what was sent."""
        self.writer.close()

    def hang_up_now(self) -> None:
        """FIN from the calling thread, before any loop could run; later bytes are answered with RST."""
        with socket.socket(fileno=os.dup(self.socket.fileno())) as twin:
            twin.shutdown(socket.SHUT_RDWR)

    async def read_request(self) -> Request | None:
        """None when the client has closed instead."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        return Request(method, target, headers, await self.reader.readexactly(length), self.number)


type Handler = Callable[[Peer, Request], Awaitable[None]]
type RawHandler = Callable[[Peer], Awaitable[None]]


@dataclass
class FakeServer:
    """A running server. `requests` are those read completely; `peers` all connections ever accepted."""

    url: str = ""
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    open_peers: set[Peer] = field(default_factory=set)
    failures: list[BaseException] = field(default_factory=list)


@contextlib.contextmanager
def serve(
    handler: Handler | None = None,
    *,
    raw: RawHandler | None = None,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> Iterator[FakeServer]:
    """`handler` runs for every request, and the connection stays open when it returns; `raw` gets the
    connection before anything was read, and it ends with it. What they raise, other than a client that
    left, is raised at the end.
    """
    server = FakeServer()
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, len(server.peers) + 1)
        server.peers.append(peer)
        server.open_peers.add(peer)
        try:
            if raw is not None:
                await raw(peer)
                return
            assert handler is not None
            while (request := await peer.read_request()) is not None:
                server.requests.append(request)
                await handler(peer, request)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client left: what many tests are about
        except Exception as error:  # noqa: BLE001 - raised again in the test's own thread
            server.failures.append(error)
        finally:
            server.open_peers.discard(peer)
            writer.close()

    async def run() -> None:
        listener = await asyncio.start_server(connected, host, 0, ssl=tls, backlog=1024)
        server.port = listener.sockets[0].getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        server.url = f"{'https' if tls else 'http'}://{name}:{server.port}"
        ready.set()
        await stop.wait()
        listener.close()
        for peer in list(server.open_peers):
            peer.writer.transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets one tick later

    def main() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=main, name="fake http server")
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
    assert not thread.is_alive()
    if server.failures:
        raise server.failures[0]


# ------------------------------------------------------------------ bytes to send


def reply(body: bytes = b"{}", *, status: str = "200 OK", headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    """A whole answer with Content-Length."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def split(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


# ------------------------------------------------------------------ TLS


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority made for one test run: what to trust, and a server's context."""

    ca_pem: str
    server_context: ssl.SSLContext

    def client_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.ca_pem)
        context.set_alpn_protocols(["http/1.1"])
        return context


def make_authority(*names: str) -> Authority:
    """A CA and a server certificate for DNS names and addresses, valid for an hour around now."""
    now = dt.datetime.now(dt.UTC)
    span = (now - dt.timedelta(minutes=30), now + dt.timedelta(minutes=30))
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tollhouse test authority")])
    ca_key_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = (
        x509.CertificateBuilder(ca_name, ca_name, ca_key.public_key(), x509.random_serial_number(), *span)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca_key_id, critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tollhouse test server")])
    leaf = (
        x509.CertificateBuilder(ca_name, subject, key.public_key(), x509.random_serial_number(), *span)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_key_id), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    with tempfile.NamedTemporaryFile(suffix=".pem") as bundle:
        bundle.write(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            + leaf.public_bytes(pem)
        )
        bundle.flush()
        context.load_cert_chain(bundle.name)
    return Authority(ca_pem=ca.public_bytes(pem).decode(), server_context=context)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
