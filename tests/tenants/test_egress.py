import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tenants.egress import ANY_HOST, CheckedUrl, EgressError, check_url, fetch, may_connect, resolve
from tenants.errors import ApiError

FORBIDDEN = [
    "0.0.0.0", "0.1.2.3",  # noqa: S104 - to be refused
    "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254",
    "169.254.169.254", "169.254.0.1", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "64:ff9b:1:7f00:1::", "64:ff9b:1::808:808",
    "2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::",
    "2002:a9fe:a9fe::", "2002:808:808::", "3fff::1", "5f00::1", "100::1", "fc00::1", "fd12:3456::1",
    "fd00:ec2::254", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1", "ff0e::1", "4000::1", "not an address", "",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not may_connect(address, is_private_allowed=False)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert may_connect(address, is_private_allowed=False)


PRIVATE = ["127.0.0.1", "10.1.2.3", "192.168.0.5", "100.64.0.1", "::1", "fd12::1", "::ffff:10.0.0.1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_open_where_the_operator_says_so(address: str) -> None:
    assert may_connect(address, is_private_allowed=True)


STAYS_CLOSED = [
    "169.254.169.254", "::ffff:169.254.169.254", "100.100.100.200", "fd00:ec2::254", "fe80::1", "224.0.0.1",
    "0.0.0.0", "::", "240.0.0.1", "64:ff9b::a9fe:a9fe",  # noqa: S104 - to be refused
]  # fmt: skip
LOOPBACK = [
    "127.1", "0x7f.1", "2130706433", "017700000001", "0x7f000001", "localhost", "[::1]", "[::ffff:7f00:1]",
    "0",
]  # fmt: skip


@pytest.mark.parametrize("address", STAYS_CLOSED)
def test_metadata_link_local_and_multicast_stay_closed_even_then(address: str) -> None:
    assert not may_connect(address, is_private_allowed=True)


@pytest.mark.parametrize("host", LOOPBACK)
def test_every_spelling_of_loopback_is_judged_by_the_address_it_resolves_to(host: str) -> None:
    with pytest.raises(ApiError) as refusal:
        check_url(f"https://{host}/v1", allow_private_hosts=(), param="base_url")
    assert (refusal.value.code, refusal.value.status, refusal.value.param) == (
        "url_not_allowed",
        400,
        "base_url",
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://models.example/v1", "https://models.example:8443/v1", "ftp://models.example", "file:///etc/passwd",
        "https://user:pass@models.example", "https://user@models.example", "https://@models.example",
        "https://models.example\\@evil.example", "https://models.example/#x", "https:///v1", "https://",
        "//models.example", "models.example", "", "https://mod els.example", "https://models.example/\n",
        "https://models.example/\x00", "https://ⓜodels.example", "gopher://models.example", "https://[::1",
        "https://" + "a" * 2001,
    ],
)  # fmt: skip
def test_a_url_of_another_form_is_refused_before_it_is_resolved(url: str) -> None:
    def resolver(host: str, port: int) -> list[str]:
        raise AssertionError(f"resolved {host}")

    with pytest.raises(ApiError, match="This URL cannot be used"):
        check_url(url, allow_private_hosts=(), resolver=resolver)


def test_one_private_address_among_public_ones_refuses_the_host() -> None:
    with pytest.raises(ApiError):
        check_url(
            "https://models.example", allow_private_hosts=(), resolver=lambda h, p: ["8.8.8.8", "10.0.0.1"]
        )


def test_a_host_that_does_not_resolve_is_refused() -> None:
    def resolver(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(ApiError, match="does not resolve"):
        check_url("https://models.example", allow_private_hosts=(), resolver=resolver)


def test_a_good_url_comes_back_with_all_its_addresses() -> None:
    checked = check_url(
        "https://models.example/v1",
        allow_private_hosts=(),
        resolver=lambda h, p: ["8.8.8.8", "2606:4700::1111"],
    )
    assert checked == CheckedUrl("models.example", 443, ("8.8.8.8", "2606:4700::1111"))


@pytest.mark.parametrize("entry", ["models.lan", "models.lan:8080"])
def test_the_operators_allowlist_opens_a_host_by_name_or_name_and_port(entry: str) -> None:
    def resolver(host: str, port: int) -> list[str]:
        return ["10.0.0.7"]

    url = "http://models.lan:8080/v1"
    assert check_url(url, allow_private_hosts=[entry], resolver=resolver).addresses == ("10.0.0.7",)
    with pytest.raises(ApiError):
        check_url(url, allow_private_hosts=["other.lan", "models.lan:9090"], resolver=resolver)


def test_the_setting_holds_no_wildcard_for_part_of_a_name() -> None:
    with pytest.raises(ApiError):
        check_url(
            "https://evil-models.lan", allow_private_hosts=["models.lan"], resolver=lambda h, p: ["10.0.0.7"]
        )


# ------------------------------------------------------------------ connections


class Recorder(BaseHTTPRequestHandler):
    """Answers /redirect with a redirect, /long with too much, anything else with what it was asked."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        body = b"x" * 5000 if self.path == "/long" else b"hello"
        self.send_response(302 if self.path == "/redirect" else 200)
        if self.path == "/redirect":
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@contextmanager
def server() -> Iterator[tuple[int, list[tuple[str, str]]]]:
    with HTTPServer(("127.0.0.1", 0), Recorder) as http:
        http.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield http.server_port, http.seen  # type: ignore[attr-defined]
        finally:
            http.shutdown()
            thread.join()


class Flipping:
    """Public when it is judged, private the next time: DNS rebinding."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    def __call__(self, host: str, port: int) -> list[str]:
        return self.answers.pop(0)


def test_the_connection_goes_to_the_judged_address_with_the_original_host() -> None:
    with server() as (port, seen):
        reply = fetch(
            "GET",
            f"http://models.example:{port}/v1/models",
            allow_private_hosts=ANY_HOST,
            resolver=lambda h, p: ["127.0.0.1"],
        )
    assert (reply.status, reply.body) == (200, b"hello")
    assert seen == [("/v1/models", f"models.example:{port}")]


def test_a_resolver_that_flips_is_asked_only_once_so_the_private_address_is_never_reached() -> None:
    with server() as (port, seen):
        # Nobody listens on the first answer; the second would lead to our server.
        flipping = Flipping(["127.0.0.2"], ["127.0.0.1"])
        with pytest.raises(EgressError) as failure:
            fetch("GET", f"http://models.example:{port}/", allow_private_hosts=ANY_HOST, resolver=flipping)
        assert failure.value.kind == "connection"
        assert flipping.answers == [["127.0.0.1"]]
        assert seen == []


def test_a_refused_address_is_never_connected_to() -> None:
    with server() as (port, seen):
        with pytest.raises(ApiError, match="not public"):
            fetch(
                "GET",
                "https://models.example/",
                allow_private_hosts=(),
                resolver=lambda h, p: ["127.0.0.1"],
            )
        assert seen == []
        assert port > 0


def test_redirects_are_answers_and_not_followed() -> None:
    with server() as (port, seen):
        reply = fetch("GET", f"http://127.0.0.1:{port}/redirect", allow_private_hosts=ANY_HOST)
    assert (reply.status, reply.headers["location"]) == (302, "/elsewhere")
    assert [path for path, _ in seen] == ["/redirect"]


def test_proxy_settings_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with server() as (port, _):
        assert fetch("GET", f"http://127.0.0.1:{port}/", allow_private_hosts=ANY_HOST).status == 200


def test_an_answer_beyond_the_limit_is_an_error() -> None:
    with server() as (port, _), pytest.raises(EgressError) as failure:
        fetch("GET", f"http://127.0.0.1:{port}/long", allow_private_hosts=ANY_HOST, max_bytes=4999)
    assert failure.value.kind == "invalid_response"


def test_a_longer_answer_is_cut_where_only_its_status_matters() -> None:
    with server() as (port, _):
        reply = fetch(
            "GET",
            f"http://127.0.0.1:{port}/long",
            allow_private_hosts=ANY_HOST,
            max_bytes=4999,
            is_cut_allowed=True,
        )
    assert (reply.status, len(reply.body)) == (200, 4999)


def test_a_server_that_drips_is_cut_off_by_the_total_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        stop = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.02):
                    try:
                        connection.sendall(b"X-Drip: 1\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(EgressError) as failure:
            fetch("GET", f"http://127.0.0.1:{port}/", allow_private_hosts=ANY_HOST, timeout_s=0.3)
        stop.set()
        thread.join()
    assert failure.value.kind == "timeout"


def test_a_closed_port_is_a_connection_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(EgressError) as failure:
        fetch("GET", f"http://127.0.0.1:{port}/", allow_private_hosts=ANY_HOST)
    assert failure.value.kind == "connection"


def test_the_systems_resolver_gives_each_address_once() -> None:
    assert resolve("127.0.0.1", 443) == ["127.0.0.1"]
