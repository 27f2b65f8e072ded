"""An OpenID Connect provider over real HTTP: discovery, authorization code with PKCE, RS256 id tokens, JWKS.

It signs in `person` without asking, and refuses what the standards say it must: a strange client or redirect
URI, a code twice, a verifier that does not fit. A test changes `claims` or `config` to make it misbehave.
"""

import base64
import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fakes.http_server import FakeServer, Peer, Request, reply, serve

CLIENT_ID = "tollhouse-client"
CLIENT_SECRET = "s3cret-of-the-client"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
STRANGE_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class OidcProvider:
    """A running provider. `claims` are added to every id token; None takes one away."""

    server: FakeServer
    redirect_uri: str = ""
    person: dict[str, Any] = field(
        default_factory=lambda: {
            "sub": "u-1", "email": "ada@acme.example", "email_verified": True, "name": "Ada Lovelace"
        }
    )  # fmt: skip
    claims: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    signing_key: rsa.RSAPrivateKey = KEY
    algorithm: str = "RS256"
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    @property
    def issuer(self) -> str:
        return self.server.url

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "jwks_uri": f"{self.issuer}/jwks",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "code_challenge_methods_supported": ["S256"],
            **self.config,
        }

    def answer(self, request: Request) -> bytes:
        target = urlsplit(request.target)
        match request.method, target.path:
            case "GET", "/.well-known/openid-configuration":
                return _json(self.discovery())
            case "GET", "/jwks":
                key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))
                return _json({"keys": [{**key, "kid": "k1", "use": "sig", "alg": "RS256"}]})
            case "GET", "/authorize":
                return self._authorize(_one(target.query))
            case "POST", "/token":
                return self._token(_one(request.body.decode()))
            case "GET", "/userinfo":
                return _json(self.person)
        return reply(b"", status="404 Not Found")

    def _authorize(self, asked: dict[str, str]) -> bytes:
        self.asked.append(asked)
        if asked.get("client_id") != CLIENT_ID or asked.get("redirect_uri") != self.redirect_uri:
            return self._refuse("strange client or redirect URI")
        if asked.get("response_type") != "code" or asked.get("code_challenge_method") != "S256":
            return self._refuse("no code flow with PKCE")
        if "openid" not in asked["scope"].split(" ") or not asked.get("state") or not asked.get("nonce"):
            return self._refuse("no scope, state or nonce")
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        query = urlencode({"code": code, "state": asked["state"]})
        return reply(b"", status="302 Found", headers=(("Location", f"{self.redirect_uri}?{query}"),))

    def _token(self, given: dict[str, str]) -> bytes:
        asked = self.codes.pop(given.get("code", ""), None)
        if asked is None:
            return self._refuse("strange or used code")
        if (given.get("client_id"), given.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return self._refuse("wrong client secret")
        digest = hashlib.sha256(given.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != asked["code_challenge"]:
            return self._refuse("wrong code verifier")
        if given.get("redirect_uri") != asked["redirect_uri"]:
            return self._refuse("another redirect URI")
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"],
            **self.person, **self.claims,
        }  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        key: Any = "shared-secret-of-thirty-two-bytes" if self.algorithm == "HS256" else self.signing_key
        token = jwt.encode(claims, key, self.algorithm, headers={"kid": "k1"})
        return _json({"access_token": secrets.token_urlsafe(16), "token_type": "Bearer", "id_token": token})

    def _refuse(self, why: str) -> bytes:
        self.refusals.append(why)
        return _json({"error": "invalid_request", "error_description": why}, status="400 Bad Request")


def _json(body: Any, *, status: str = "200 OK") -> bytes:
    return reply(json.dumps(body).encode(), status=status, headers=(("Content-Type", "application/json"),))


def _one(query: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(query).items()}


@contextlib.contextmanager
def running() -> Iterator[OidcProvider]:
    """A provider on a free port of 127.0.0.1. Set `redirect_uri` before anybody signs in."""
    made: list[OidcProvider] = []

    async def handle(peer: Peer, request: Request) -> None:
        await peer.send(made[0].answer(request))

    with serve(handle) as server:
        made.append(OidcProvider(server))
        yield made[0]
