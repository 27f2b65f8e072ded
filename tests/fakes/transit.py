"""A local HTTP server that answers as HashiCorp Vault's Transit engine does, with real AES-GCM inside.

Shapes: https://developer.hashicorp.com/vault/api-docs/secret/transit. One key, `transit/tollhouse`.
"""

import base64
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = "hvs.test-token-of-transit"


class Transit(ThreadingHTTPServer):
    """`versions` are the key's, oldest first; `requests` the paths asked; `refuses` answers all with a status."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.versions = [AESGCM.generate_key(256)]
        self.requests: list[str] = []
        self.refuses: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def rotate(self) -> None:
        self.versions.append(AESGCM.generate_key(256))

    def encrypt(self, item):
        nonce = os.urandom(12)
        data = AESGCM(self.versions[-1]).encrypt(
            nonce, _bytes(item["plaintext"]), _bytes(item["associated_data"])
        )
        version = len(self.versions)
        return {"ciphertext": f"vault:v{version}:{_text(nonce + data)}", "key_version": version}

    def decrypt(self, item):
        _, version, text = item["ciphertext"].split(":")
        data = _bytes(text)
        try:
            key = AESGCM(self.versions[int(version[1:]) - 1])
            return {"plaintext": _text(key.decrypt(data[:12], data[12:], _bytes(item["associated_data"])))}
        except (InvalidTag, IndexError):
            return {"error": "cipher: message authentication failed"}


class Handler(BaseHTTPRequestHandler):
    server: Transit

    def do_GET(self) -> None:
        self._answer(lambda _: {"latest_version": len(self.server.versions), "type": "aes256-gcm96"})

    def do_POST(self) -> None:
        self._answer(self._batch)

    def _batch(self, body):
        verb = self.server.encrypt if "/encrypt/" in self.path else self.server.decrypt
        return {"batch_results": [verb(item) for item in body["batch_input"]]}

    def _answer(self, verb) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {self.path}")
        if self.headers["X-Vault-Token"] != TOKEN:
            return self._send(403, {"errors": ["permission denied"]})
        if self.server.refuses is not None:
            return self._send(self.server.refuses, {"errors": ["Vault is sealed"]})
        if self.path not in [f"/v1/transit/{each}/tollhouse" for each in ("keys", "encrypt", "decrypt")]:
            return self._send(404, {"errors": []})
        data = verb(json.loads(raw or b"{}"))
        failed = any("error" in each for each in data.get("batch_results", ()))
        return self._send(400 if failed else 200, {"data": data})

    def _send(self, status, body) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@contextmanager
def transit() -> Iterator[Transit]:
    """A running server, closed afterwards."""
    with Transit() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
