"""Looks for strings that must be nowhere: in every table, every key of Redis, files and logs, in any spelling.

`python -m tests.scan needles.txt` reads one needle a line and looks at DATABASE_URL, REDIS_URL and
TOLLHOUSE_DATA; more folders and files may follow. It prints each hit's place, never the needle, and exits
with 1 when there is one.
"""

import base64
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus

import psycopg
import redis
from psycopg import sql


@dataclass(frozen=True, slots=True)
class Hit:
    """Where a needle was found. `number` is its place among the needles: the needle itself is not printed."""

    place: str
    number: int
    spelling: str


def spellings(needle: str) -> dict[str, bytes]:
    """How a value may stand in a dump: as it is, in JSON, in base64 at any offset, in hex, in a URL."""
    raw = needle.encode()
    found = {
        "raw": raw,
        "json": json.dumps(needle)[1:-1].encode(),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "url": quote(needle, safe="").encode(),
        "form": quote_plus(needle).encode(),
    }
    for offset in range(3):
        # The characters at the edges also encode their neighbours: only those within are the value's own.
        encoded = base64.b64encode(b"\0" * offset + raw)
        inner = encoded[(offset * 8 + 5) // 6 : (offset + len(raw)) * 8 // 6]
        found[f"base64+{offset}"] = inner
        found[f"base64url+{offset}"] = inner.translate(bytes.maketrans(b"+/", b"-_"))
    unique = {text: name for name, text in reversed(found.items())}
    return {name: text for text, name in unique.items()}


def search(places: Iterable[tuple[str, bytes]], needles: Iterable[str]) -> tuple[list[Hit], int]:
    """Every hit, and how many bytes were looked at. Letters in either case count as the same."""
    wanted = [
        (number, name, text.lower())
        for number, needle in enumerate(needles)
        for name, text in spellings(needle).items()
    ]
    hits, size = [], 0
    for place, content in places:
        size += len(content)
        lower = content.lower()
        hits += [Hit(place, number, name) for number, name, text in wanted if text in lower]
    return hits, size


# ------------------------------------------------------------------ places


def database(url: str) -> Iterator[tuple[str, bytes]]:
    """Every table of every schema that is ours, as COPY writes it: bytes as hex, JSON as text."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
            " AND n.nspname NOT LIKE 'pg\\_toast%' ORDER BY 1, 2"
        )
        for schema, table in cursor.fetchall():
            statement = sql.SQL("COPY (SELECT * FROM {}) TO STDOUT").format(sql.Identifier(schema, table))
            with cursor.copy(statement) as copy:
                yield f"table {schema}.{table}", b"".join(bytes(piece) for piece in copy)


def redis_keys(url: str) -> Iterator[tuple[str, bytes]]:
    """Every key with its whole value, whatever its type."""
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(count=1000):
            kind = client.type(key).decode()
            match kind:
                case "string":
                    value = client.get(key) or b""
                case "hash":
                    value = repr(client.hgetall(key)).encode()
                case "list":
                    value = repr(client.lrange(key, 0, -1)).encode()
                case "set":
                    value = repr(client.smembers(key)).encode()
                case "zset":
                    value = repr(client.zrange(key, 0, -1, withscores=True)).encode()
                case "stream":
                    value = repr(client.xrange(key)).encode()
                case "none":  # it has expired meanwhile
                    value = b""
                case _:
                    raise AssertionError(f"a Redis type nobody looks into: {kind}")
            yield f"redis {key.decode('utf-8', 'replace')}", key + b"\n" + value + b"\n" + _unescaped(value)


def _unescaped(value: bytes) -> bytes:
    """repr() doubles backslashes: what JSON escaped stands once here."""
    return value.replace(b"\\\\", b"\\")


def files(*roots: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below these folders, or these files; sockets and the servers' own data are left to the servers."""
    for root in roots:
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.is_file() and not {"postgres", "redis"} & set(path.relative_to(root).parts[:1]):
                yield f"file {path}", path.read_bytes()


def main() -> int:
    needles = [line for line in Path(sys.argv[1]).read_text().splitlines() if line]
    data = [Path(os.environ["TOLLHOUSE_DATA"])] if os.environ.get("TOLLHOUSE_DATA") else []
    places = [
        *database(os.environ["DATABASE_URL"]),
        *redis_keys(os.environ["REDIS_URL"]),
        *files(*data, *map(Path, sys.argv[2:])),
    ]
    hits, size = search(places, needles)
    for hit in hits:
        print(f"needle {hit.number + 1} as {hit.spelling} in {hit.place}")
    print(f"{len(hits)} hits of {len(needles)} needles in {len(places)} places, {size:,} bytes")
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main())
