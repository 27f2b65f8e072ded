"""Malformed requests, made by hypothesis and schemathesis, sent as bytes to a running gateway, and judged.

A request must be answered in time, never with a 500, and one that is refused must leave no row behind. What
it is refused with is its own business. Nothing here knows a route by name: the resolver and the schema do.
"""

import contextlib
import json
import socket
import string
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from django.db import connection
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

ANSWER_TIMEOUT_S = 30.0
READING = {"GET", "HEAD", "OPTIONS", "TRACE"}


# ------------------------------------------------------------------ the wire


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as it goes over the wire. `target` and header values are bytes, so that nothing repairs them."""

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def raw(self) -> bytes:
        names = {name.lower() for name, _ in self.headers}
        lines = [self.method.encode() + b" " + self.target + b" HTTP/1.1", b"host: 127.0.0.1"]
        lines += [name + b": " + value for name, value in self.headers]
        if not names & {b"content-length", b"transfer-encoding"} and (self.body or self.method == "POST"):
            lines.append(b"content-length: %d" % len(self.body))
        return b"\r\n".join((*lines, b"", b"")) + self.body


@dataclass(slots=True)
class Wire:
    """One connection to the gateway, opened again whenever the other side has closed it."""

    port: int
    reached: int = 0  # answers that name a provider
    _socket: socket.socket | None = None
    _left: bytes = b""

    def send(self, ask: Ask) -> tuple[int, bytes]:
        """The status and the body; status 0 when the connection was closed without an answer. TimeoutError: a hang."""
        for is_fresh in (self._socket is None, True):
            try:
                return self._exchange(ask)
            except ConnectionError:
                self.close()
                if is_fresh:
                    return 0, b""
        raise AssertionError("unreachable")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._left = None, b""

    def _exchange(self, ask: Ask) -> tuple[int, bytes]:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_TIMEOUT_S)
            self._left = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # an answer may have come before
            self._socket.sendall(ask.raw())
        head = self._until(b"\r\n\r\n")
        while (status := int(head[9:12])) < 200:
            head = self._until(b"\r\n\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        self.reached += b"x-tollhouse-provider" in headers
        if ask.method == "HEAD" or status in (204, 304):
            body = b""
        elif b"content-length" in headers:
            body = self._exactly(int(headers[b"content-length"]))
        elif headers.get(b"transfer-encoding") == b"chunked":
            body = b""
            while size := int(self._until(b"\r\n"), 16):
                body += self._exactly(size)
                self._exactly(2)
            self._until(b"\r\n")
        else:
            body, headers[b"connection"] = b"", b"close"
        if headers.get(b"connection") == b"close":
            self.close()
        return status, body

    def _until(self, mark: bytes) -> bytes:
        while (at := self._left.find(mark)) < 0:
            self._more()
        found, self._left = self._left[:at], self._left[at + len(mark) :]
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._left) < size:
            self._more()
        found, self._left = self._left[:size], self._left[size:]
        return found

    def _more(self) -> None:
        piece = self._socket.recv(65536) if self._socket is not None else b""
        if not piece:
            raise ConnectionResetError
        self._left += piece


# ------------------------------------------------------------------ the judge


@dataclass(slots=True)
class Campaign:
    """Sends, counts and keeps what must not be."""

    wire: Wire
    counts_every: int = (
        1  # writing requests between two looks at the tables; the data plane writes none itself
    )
    statuses: Counter[int] = field(default_factory=Counter)
    broken: dict[str, str] = field(default_factory=dict)  # kind and place -> the first request that did it
    hangs: int = 0
    accepted: int = 0
    _before: tuple[int, ...] = ()
    _writing: int = 0

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())

    def run(self, ask: Ask) -> None:
        is_read = ask.method in READING
        try:
            status, body = self.wire.send(ask)
        except TimeoutError:
            self.wire.close()
            self.hangs += 1
            self._keep("hang", ask, b"")
            self.statuses[-1] += 1
            return
        self.statuses[status] += 1
        if status >= 500 and status not in (502, 503, 504):
            self._keep(str(status), ask, body)
        is_accepted = status and status < 400 and not is_read
        self.accepted += bool(is_accepted)
        if is_accepted and self.counts_every == 1:
            self._before = counts()
        elif not is_read:
            self._writing += 1
            if self._writing % self.counts_every == 0:
                self._look(status, ask, body)

    def _look(self, status: int, ask: Ask, body: bytes) -> None:
        now = counts()
        if self._before and now != self._before:
            grown = [name for name, a, b in zip(tables(), self._before, now, strict=True) if a != b]
            self._keep(f"rows in {grown} after {status}", ask, body)
        self._before = now

    def _keep(self, what: str, ask: Ask, body: bytes) -> None:
        path = ask.target.partition(b"?")[0].decode("latin-1")
        place = "/".join(
            part if part.isalpha() or part in ("v1", "v1beta") else "*" for part in path.split("/")
        )
        shown = f"{ask.method} {ask.target!r} {ask.headers!r} {ask.body[:2000]!r} -> {body[:300]!r}"
        self.broken.setdefault(f"{what}: {ask.method} {place}", shown)

    def report(self) -> str:
        lines = [f"{self.requests} requests", f"{self.accepted} writes accepted", f"{self.hangs} hangs"]
        lines += [f"  {status or 'closed'}: {count}" for status, count in sorted(self.statuses.items())]
        lines += [f"BROKEN {what}\n    {shown}" for what, shown in sorted(self.broken.items())]
        return "\n".join(lines)


_TABLES: list[str] = []


def tables() -> list[str]:
    """Every table that holds what requests may write: all but the traces of an attempt, which is their purpose."""
    if not _TABLES:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT c.relname FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace"
                " AND c.relname <> 'django_migrations' ORDER BY 1"
            )
            _TABLES.extend(name for (name,) in cursor.fetchall())
    return _TABLES


def counts() -> tuple[int, ...]:
    """Rows in each table, in one statement."""
    with connection.cursor() as cursor:
        each = ",".join(f'(SELECT count(*) FROM "{name}")' for name in tables())  # noqa: S608 - names of pg_class
        cursor.execute(f"SELECT {each}")
        return tuple(cursor.fetchone())


def examples(strategy, count: int, start: int):
    """Calls `use(example)` for `count` examples of a strategy, the same ones for the same `start`."""

    def over(use) -> None:
        step = 2_000  # hypothesis remembers what it has made: fresh runs keep it quick
        for number, first in enumerate(range(0, count, step)):

            @seed(start + number)
            @settings(
                max_examples=min(step, count - first),
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(strategy)
            def play(example) -> None:
                use(example)

            play()

    return over


# ------------------------------------------------------------------ junk

WORDS: dict[str, list[str]] = json.loads((Path(__file__).parent / "fuzz_words.json").read_text())
NUMBERS = st.sampled_from(
    [0, -1, 1, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30, 0.1, -0.0, 1e308, 1e-320, 10**400]
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(WORDS["texts"]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


def encoded(value: Any) -> bytes:
    """JSON as Python writes it: NaN, lone surrogates and endless numbers included."""
    return json.dumps(value, ensure_ascii=True).encode()


def deep(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


RAW_BODIES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"1",
            b'"a"',
            b"{}" * 2,
            b'{"model":NaN}',
            b'{"model":Infinity}',
            b"{'model': 1}",
            b'{"model":"a","model":"b"}',
            b'{"model":"\\ud800"}',
            b'{"model":"\\u0000"}',
            b'{"n":1e999999}',
            b'{"n":' + b"9" * 5000 + b"}",
            b"\xef\xbb\xbf{}",
            '{"model":"ä"}'.encode("utf-16"),
            b'{"model":"\xff"}',
            b"{\x00}",
            b'{"a":1,}',
            b"//\n{}",
            deep(65),
            deep(500),
            deep(1000),
            deep(5000),
            b"[" * 100_000,
            b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}",
            b"a=1&b=2",
            b"\x1f\x8b\x08\x00" + b"\0" * 20,
            b"{" + b",".join(b'"k%d":1' % number for number in range(3000)) + b"}",
        ]
    ),
)
LATIN = st.text(
    st.characters(
        max_codepoint=255,
        exclude_characters="\r\n\0" + "".join(map(chr, (*range(1, 9), *range(11, 32), 127))),
    ),
    max_size=30,
).map(lambda text: text.encode("latin-1"))
OUR_HEADERS = st.sampled_from([each.encode("latin-1") for each in WORDS["header_names"]])
HEADER_VALUES = st.one_of(
    LATIN,
    st.sampled_from([each.encode("latin-1") for each in WORDS["header_values"]]),
)
CONTENT_TYPES = st.sampled_from([each.encode("latin-1") for each in WORDS["content_types"]])
METHODS = st.sampled_from(
    ["GET", "POST", "POST", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"]
)
SEGMENTS = st.one_of(
    st.sampled_from(WORDS["path_segments"]),
    st.text(max_size=6).map(lambda text: quote(text.encode("utf-8", "replace"), safe="")),
)
QUERIES = st.one_of(
    st.just(""),
    st.dictionaries(
        st.sampled_from(WORDS["query_names"]),
        TEXTS.map(lambda text: text.encode("utf-8", "replace")),
        max_size=3,
    ).map(urlencode),
    st.sampled_from(WORDS["queries"]),
)


def headers(keys: list[str]):
    """Mostly a good key, so that what lies behind it is reached."""
    good = [b"Bearer " + key.encode() for key in keys]
    poor = [b"", b"Bearer", b"Basic YTpi", b"Bearer th_wrong", b"bearer  x y", b"Bearer \xb2", b"\xff" * 200]
    auth = st.sampled_from(good * (50 // len(good)) + poor)
    return st.builds(
        lambda auth, content_type, more: (
            (b"authorization", auth),
            (b"content-type", content_type),
            *(
                (name, value.strip(b" \t") or b"x")
                for name, value in more
                if name not in (b"connection", b"te")
            ),
        ),
        auth,
        CONTENT_TYPES,
        st.lists(st.tuples(OUR_HEADERS, HEADER_VALUES), max_size=2),
    )


def changed(template: Any):
    """Bodies like `template` with one to three of its places spoilt."""

    def spoil(doc: Any, choices: list[tuple[int, Any]]) -> bytes:
        doc = orjson.loads(orjson.dumps(doc))
        for pick, junk in choices:
            places = list(_places(doc))
            holder, name = places[pick % len(places)]
            if pick % 7 == 0 and isinstance(holder, dict):
                del holder[name]
                if not doc:
                    break
            else:
                holder[name] = junk
        return encoded(doc)

    picks = st.lists(st.tuples(st.integers(0, 999), JUNK), min_size=1, max_size=3)
    return picks.map(lambda choices: spoil(template, choices))


def _places(doc: Any):
    pairs = doc.items() if isinstance(doc, dict) else enumerate(doc) if isinstance(doc, list) else ()
    for name, inner in list(pairs):
        yield doc, name
        yield from _places(inner)


# ------------------------------------------------------------------ the data plane

TEMPLATES: dict[str, Any] = json.loads((Path(__file__).parent / "fuzz_templates.json").read_text())
"""A body whose form is accepted for every path that takes one: what is spoilt in it is then what is judged."""
HOT_PATHS = [*TEMPLATES, "/v1/models", "/v1/models/sandbox-large", "/v1/models/"]


def data_plane(keys: list[str]):
    """Requests to /v1 and /v1beta: spoilt bodies on known paths for the most part."""
    spoilt = [
        st.builds(
            Ask, st.just("POST"), st.just(path.encode()), headers(keys).map(_as_json), changed(template)
        )
        for path, template in TEMPLATES.items()
    ]
    wild = st.builds(
        lambda method, path, more, query, sent, body: Ask(method, _target(path, more, query), sent, body),
        METHODS,
        st.sampled_from(HOT_PATHS),
        st.one_of(st.just([]), st.lists(SEGMENTS, max_size=2)),
        QUERIES,
        headers(keys),
        st.one_of(RAW_BODIES, JUNK.map(encoded), st.sampled_from(list(TEMPLATES.values())).map(orjson.dumps)),
    )
    return st.one_of(*spoilt, wild, wild, wild)


def _as_json(sent):
    return tuple((name, b"application/json" if name == b"content-type" else value) for name, value in sent)


def _target(path: str, more: list[str], query: str) -> bytes:
    target = "/".join([path, *more]) + (f"?{query}" if query else "")
    return target.encode("ascii", "xmlcharrefreplace").replace(b" ", b"%20")


# ------------------------------------------------------------------ the control plane


def control_plane(keys: list[str], schema: dict[str, Any], known: list[str]):
    """Requests to every operation of the schema: its own fields with junk in them, and junk around them."""
    operations = [
        st.builds(
            lambda segments, query, sent, body, path=path, method=method: Ask(
                method.upper(), _filled(path, segments, query), sent, body
            ),
            st.lists(st.one_of(st.sampled_from(known), SEGMENTS), min_size=4, max_size=4),
            QUERIES,
            headers(keys) if number % 4 == 0 else headers(keys).map(_as_json),
            st.one_of(RAW_BODIES, st.dictionaries(st.sampled_from(names), JUNK, max_size=5).map(encoded)),
        )
        for number, (path, method, names) in enumerate(_operations(schema))
    ]
    return st.one_of(*operations)


def _operations(schema: dict[str, Any]):
    for path, methods in schema["paths"].items():
        if not path.startswith("/api/v1/"):
            continue
        for method, operation in methods.items():
            names = sorted(_fields(schema, operation.get("requestBody", {}))) or ["name", "slug"]
            yield path, method, names


def _fields(schema: dict[str, Any], body: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for content in body.get("content", {}).values():
        waiting = [content.get("schema", {})]
        while waiting:
            node = waiting.pop()
            reference = node.get("$ref", "").rpartition("/")[2]
            if reference:
                node = schema["components"]["schemas"][reference]
            found |= set(node.get("properties", {}))
            waiting += [*node.get("allOf", ()), *node.get("oneOf", ()), *node.get("anyOf", ())]
    return found


def _filled(path: str, segments: list[str], query: str) -> bytes:
    pieces = iter(segments)
    filled = "".join(
        next(pieces, "x") + rest.partition("}")[2] if number else rest
        for number, rest in enumerate(path.split("{"))
    )
    return _target(filled, [], query)


# ------------------------------------------------------------------ schemathesis


def from_schema(schema: dict[str, Any], prefix: str, keys: list[str], count: int, start: int):
    """Calls `use(ask)` for schemathesis's own negative examples of every operation below `prefix`, about `count`."""
    import schemathesis
    from schemathesis import GenerationMode

    loaded = schemathesis.openapi.from_dict(schema)
    operations = [
        each
        for each in (result.ok() for result in loaded.get_all_operations())
        if each.path.startswith(prefix)
    ]
    modes = (GenerationMode.NEGATIVE, GenerationMode.POSITIVE)

    def over(use) -> None:
        share = max(2, count // len(operations))
        for number, operation in enumerate(operations):
            mode = modes[number % 5 == 0]
            strategy = operation.as_strategy(generation_mode=mode)
            with contextlib.suppress(Unsatisfiable):  # an operation without anything to get wrong
                examples(strategy, share, start + number)(lambda case: use(_as_ask(case, keys)))

    return over


def _as_ask(case: Any, keys: list[str]) -> Ask:
    query = urlencode(
        {name: str(value).encode("utf-8", "replace") for name, value in (case.query or {}).items()}
    )
    target = case.formatted_path.encode("ascii", "replace") + (f"?{query}".encode() if query else b"")
    sent = [(b"authorization", b"Bearer " + keys[len(target) % len(keys)].encode())]
    for name, value in (case.headers or {}).items():
        clean = str(value).encode("latin-1", "replace").translate(None, bytes((*range(32), 127))).strip()
        if name.lower() not in ("authorization", "content-type", "content-length") and _is_token(name):
            sent.append((name.encode(), clean or b"x"))
    sent.append((b"content-type", (case.media_type or "application/json").encode()))
    match case.body:
        case bytes() as body:
            pass
        case given if type(given).__name__ == "NotSet":
            body = b""
        case given:
            body = encoded(given) if _is_json(given) else str(given).encode("utf-8", "replace")
    return Ask(case.method.upper(), target, tuple(sent), body)


def _is_token(name: str) -> bool:
    return bool(name) and set(name) <= set(string.ascii_letters + string.digits + "-_")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
