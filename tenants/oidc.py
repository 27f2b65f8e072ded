"""OpenID Connect over allauth: providers from our rows, every request through the egress rules, every id token
checked against the provider's keys.

allauth keeps state, PKCE and the steps of a sign-in; what it would trust without looking (signatures, nonce,
issuer, addresses on private networks) is looked at here. Nothing but a subject is stored of what providers say.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final, cast

import jwt
import requests
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.helpers import render_authentication_error
from allauth.socialaccount.models import SocialApp, SocialLogin, SocialToken
from allauth.socialaccount.providers.base import AuthProcess
from allauth.socialaccount.providers.oauth2.client import OAuth2Client, OAuth2Error
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.conf import settings
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from tenants import audit, egress, sign_ins, sso
from tenants.console import uuid_or_none
from tenants.errors import ApiError
from tenants.models import SsoConnection
from tenants.principal import Principal

TIMEOUT_S: Final = 10.0
MAX_BYTES: Final = 512 * 1024
LEEWAY_S: Final = 60
HINT: Final = "sso_login_hint"
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by key pairs alone: with a shared secret the client could sign for the provider."""
_ENDPOINTS: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_SENT: Final = frozenset(("accept", "authorization", "content-type"))


# ------------------------------------------------------------------ transport


class EgressTransport(BaseAdapter):
    """How `requests` reaches a provider: at addresses our egress rules have judged, and no redirects."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Raises requests.ConnectionError, also for a URL that is not allowed."""
        body = request.body or b""
        if not isinstance(body, str | bytes):
            raise requests.ConnectionError("Bodies are sent whole.")
        try:
            reply = egress.fetch(
                request.method or "GET",
                request.url or "",
                allow_private_hosts=settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS,
                headers=[
                    (name, str(value)) for name, value in request.headers.items() if name.lower() in _SENT
                ],
                body=body.encode() if isinstance(body, str) else body,
                timeout_s=TIMEOUT_S,
                max_bytes=MAX_BYTES,
            )
        except (ApiError, egress.EgressError) as error:
            raise requests.ConnectionError(str(error)) from error
        if 300 <= reply.status < 400:
            raise requests.ConnectionError("The provider answered with a redirect.")
        response = requests.Response()
        response.status_code = reply.status
        response.headers = CaseInsensitiveDict({"content-type": "application/json", **reply.headers})
        response.url = request.url or ""
        response.request = request
        response._content = reply.body
        return response

    def close(self) -> None:
        """Nothing is kept open."""


def session() -> requests.Session:
    """A session that goes through `EgressTransport` alone, and takes nothing from the environment."""
    made = requests.Session()
    made.trust_env = False
    made.adapters.clear()
    made.mount("http://", EgressTransport())
    made.mount("https://", EgressTransport())
    return made


# ------------------------------------------------------------------ what a provider says


def discovered(issuer: str) -> dict[str, Any]:
    """The provider's own description. Raises OAuth2Error: not reached, not JSON, of another issuer, incomplete."""
    config = _json(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    if config.get("issuer") != issuer:
        raise OAuth2Error(f"The provider calls itself {config.get('issuer')!r}, not {issuer!r}.")
    for endpoint in _ENDPOINTS:
        url = config.get(endpoint)
        if not isinstance(url, str):
            raise OAuth2Error(f"The provider names no {endpoint}.")
        try:
            egress.check_url(url, allow_private_hosts=settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS, param=endpoint)
        except ApiError as error:
            raise OAuth2Error(f"{endpoint}: {error.message}") from error
    return config


def verified_claims(*, id_token: str, issuer: str, client_id: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """What the token says, its signature, issuer, audience and times checked. Raises OAuth2Error."""
    try:
        header = jwt.get_unverified_header(id_token)
        if header.get("alg") not in ALGORITHMS:
            raise OAuth2Error("The id token is not signed by a key pair.")
        found = [
            key for key in jwt.PyJWKSet.from_dict(dict(keys)).keys
            if key.key_id == header.get("kid") and key.public_key_use in (None, "sig")
        ]  # fmt: skip
        if len(found) != 1:
            raise OAuth2Error("The provider has no such key.")
        claims = jwt.decode(
            id_token,
            key=found[0],
            algorithms=[header["alg"]],
            audience=client_id,
            issuer=issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )
    except (jwt.PyJWTError, AttributeError, TypeError, ValueError) as error:
        # PyJWKSet takes the provider's JSON as it is, and fails as Python does where a field has a wrong type.
        raise OAuth2Error(f"The id token does not hold: {error}") from error
    if not isinstance(claims["sub"], str) or not 0 < len(claims["sub"]) <= 191:
        raise OAuth2Error("The id token names nobody.")
    if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp") != client_id:
        raise OAuth2Error("The id token was made for another client.")
    return claims


def try_connection(*, connection: SsoConnection, actor: Principal) -> dict[str, str]:
    """Ask the provider for its description and its keys, and say what it offers. The secret is not sent.

    Raises ApiError invalid_request with the reason.
    """
    try:
        config = discovered(connection.issuer)
        keys = jwt.PyJWKSet.from_dict(_json(config["jwks_uri"])).keys
    except (OAuth2Error, jwt.PyJWTError) as error:
        raise ApiError("invalid_request", f"The provider did not pass: {error}", param="issuer") from error
    return {
        "issuer": connection.issuer,
        "authorization_endpoint": config["authorization_endpoint"],
        "token_endpoint": config["token_endpoint"],
        "keys": f"{len(keys)} of {', '.join(sorted({key.algorithm_name for key in keys}))}",
        "callback": callback_url(connection),
    }


def callback_url(connection: SsoConnection) -> str:
    """What to register with the provider as redirect URI."""
    return _callback_url(str(connection.pk))


def _callback_url(connection_id: str) -> str:
    return f"{settings.PUBLIC_URL}{reverse('openid_connect_callback', args=(connection_id,))}"


def _json(url: str, **headers: str) -> dict[str, Any]:
    try:
        with session() as open_session:
            response = open_session.get(url, headers=headers, timeout=TIMEOUT_S)
            response.raise_for_status()
            found = response.json()
    except requests.RequestException as error:
        raise OAuth2Error(f"{url}: {error}") from error
    if not isinstance(found, dict):
        raise OAuth2Error(f"{url} did not answer with an object.")
    return found


# ------------------------------------------------------------------ allauth's parts


class OidcClient(OAuth2Client):  # type: ignore[misc]  # allauth ships no types
    """Reads the token endpoint's answer strictly."""

    def get_access_token(self, code: str, **kwargs: Any) -> dict[str, Any]:
        """Raises OAuth2Error, requests.RequestException."""
        try:
            return cast("dict[str, Any]", super().get_access_token(code, **kwargs))
        except (TypeError, ValueError, AttributeError) as error:  # JSON of another shape than allauth expects
            raise OAuth2Error("The token endpoint's answer cannot be read.") from error


class OidcAdapter(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]  # allauth ships no types
    """One connection's endpoints and tokens."""

    client_class = OidcClient

    @property
    def openid_config(self) -> dict[str, Any]:
        if not hasattr(self, "_openid_config"):
            self._openid_config = discovered(self.get_provider().app.settings["server_url"])
        return self._openid_config

    def get_callback_url(self, request: HttpRequest, app: SocialApp) -> str:
        return _callback_url(self.provider_id)

    def parse_token(self, data: Mapping[str, Any]) -> SocialToken:
        return SocialToken(token=str(data["access_token"]))

    def complete_login(
        self, request: HttpRequest, app: SocialApp, token: SocialToken, **kwargs: Any
    ) -> SocialLogin:
        """Raises OAuth2Error."""
        id_token = kwargs["response"].get("id_token")
        if not isinstance(id_token, str):
            raise OAuth2Error("The provider gave no id token.")
        config = self.openid_config
        claims = verified_claims(
            id_token=id_token,
            issuer=config["issuer"],
            client_id=app.client_id,
            keys=_json(config["jwks_uri"]),
        )
        userinfo_url = config.get("userinfo_endpoint")
        if "email" not in claims and isinstance(userinfo_url, str):
            said = _json(userinfo_url, Authorization=f"Bearer {token.token}")
            if said.get("sub") != claims["sub"]:
                raise OAuth2Error("The provider speaks of two people.")
            claims = {**said, **claims}
        return self.get_provider().sociallogin_from_response(request, claims)


class OidcProvider(OpenIDConnectProvider):  # type: ignore[misc]  # allauth ships no types
    """A connection as allauth sees it. A request cannot add to what we ask a provider for."""

    oauth2_adapter_class = OidcAdapter
    pkce_enabled_default = True

    def get_scope_from_request(self, request: HttpRequest) -> list[str]:
        return list(self.get_default_scope())

    def get_auth_params_from_request(self, request: HttpRequest, action: str) -> dict[str, str]:
        hint = request.session.pop(HINT, "")
        return {"login_hint": hint} if hint else {}

    def redirect(self, request: HttpRequest, process: str, *args: Any, **kwargs: Any) -> HttpResponse:
        nonce = secrets.token_urlsafe(24)
        kwargs["auth_params"] = {**(kwargs.get("auth_params") or {}), "nonce": nonce}
        return cast("HttpResponse", super().redirect(request, process, *args, nonce=nonce, **kwargs))

    def extract_extra_data(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def sociallogin_from_response(self, request: HttpRequest, response: Mapping[str, Any]) -> SocialLogin:
        login = super().sociallogin_from_response(request, dict(response))
        login.claims = response
        return login


class SsoAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]  # allauth ships no types
    """Connections in place of allauth's own table of apps, and who may come in through them."""

    def is_open_for_signup(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:
        return False

    def list_apps(
        self, request: HttpRequest, provider: str | None = None, client_id: str | None = None
    ) -> list[SocialApp]:
        connection = _enabled(provider or "")
        if connection is None or (client_id is not None and client_id != connection.client_id):
            return []
        app = SocialApp(
            provider=OidcProvider.id,
            provider_id=str(connection.pk),
            name=connection.name,
            client_id=connection.client_id,
            secret=sso.secret_of(connection),
            settings={"server_url": connection.issuer, "oauth_pkce_enabled": True},
        )
        return [app]

    def get_provider(self, request: HttpRequest, provider: str, client_id: str | None = None) -> OidcProvider:
        return OidcProvider(request, app=self.get_app(request, provider=provider, client_id=client_id))

    def get_requests_session(self) -> requests.Session:
        return session()

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """Lets the person in, or answers with the reason. Raises ImmediateHttpResponse."""
        connection = _enabled(sociallogin.account.provider)
        if connection is None:
            raise Http404
        said, state = sociallogin.claims, sociallogin.state
        linked = sociallogin.user if sociallogin.is_existing else None
        try:
            if state.get("process") != AuthProcess.LOGIN:
                raise sso.SsoRefusedError("Accounts are not linked by hand.")
            if not secrets.compare_digest(str(said.get("nonce", "")), str(state.get("nonce") or "-")):
                raise sso.SsoRefusedError("The provider answered another sign-in than yours. Start again.")
            user = sso.admit(
                connection=connection,
                claims=sso.Claims(
                    subject=sociallogin.account.uid,
                    email=str(said.get("email") or ""),
                    is_email_verified=said.get("email_verified") in (True, "true"),
                    name=str(said.get("name") or "")[:200],
                ),
                linked=linked,
                now=timezone.now(),
            )
        except sso.SsoRefusedError as error:
            _note_refusal(request, connection, str(said.get("email") or ""), str(error))
            context = {"connection": connection, "reason": str(error)}
            answer = render(request, "socialaccount/refused.html", context, status=403)
            raise ImmediateHttpResponse(answer) from error
        if linked is None:
            sociallogin.connect(request, user)
            sign_ins.note("user.sso_link", user=user, request=request, after={"connection": connection.name})

    def on_authentication_error(
        self,
        request: HttpRequest,
        provider: OidcProvider,
        error: Any = None,
        exception: Exception | None = None,
        extra_context: Mapping[str, Any] | None = None,
    ) -> None:
        """Leaves the reason in the tenant's trail: the page says little on purpose."""
        connection = _enabled(provider.app.provider_id)
        if connection is not None:
            _note_refusal(request, connection, "", str(exception or error or "unknown")[:300])


def _enabled(connection_id: str) -> SsoConnection | None:
    key = uuid_or_none(connection_id)
    rows = SsoConnection.objects.filter(is_enabled=True).select_related("tenant")
    return rows.filter(pk=key).first() if key is not None else None


def _note_refusal(request: HttpRequest, connection: SsoConnection, email: str, reason: str) -> None:
    with transaction.atomic():
        audit.record(
            principal=sign_ins.DOOR,
            action="sso_connection.sign_in_refused",
            object_type="sso_connection",
            object_id=connection.pk,
            tenant=connection.tenant,
            after={"email": email[:254], "why": reason},
            ip=audit.client_ip(request),
        )


# ------------------------------------------------------------------ views


def login(request: HttpRequest, provider_id: str) -> HttpResponse:
    """Off to the provider."""
    return _guarded(request, provider_id, is_callback=False)


def callback(request: HttpRequest, provider_id: str) -> HttpResponse:
    """Back from the provider."""
    return _guarded(request, provider_id, is_callback=True)


def _guarded(request: HttpRequest, provider_id: str, *, is_callback: bool) -> HttpResponse:
    if _enabled(provider_id) is None:
        raise Http404
    adapter = OidcAdapter(request, provider_id)
    try:
        if is_callback:
            return cast("HttpResponse", OAuth2CallbackView.adapter_view(adapter)(request))
        next_url = request.GET.get("next")
        is_ours = next_url is not None and next_url.startswith("/") and not next_url.startswith(("//", "/\\"))
        provider = adapter.get_provider()
        return cast(
            "HttpResponse",
            provider.redirect(
                request,
                AuthProcess.LOGIN,
                next_url if is_ours else None,
                auth_params=provider.get_auth_params_from_request(request, "authenticate"),
            ),
        )
    except OAuth2Error as error:
        answer = render_authentication_error(request, adapter.get_provider(), exception=error)
        return cast("HttpResponse", answer)
