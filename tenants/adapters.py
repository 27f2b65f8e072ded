"""allauth as this house uses it: no sign-up, mails that name our own address, second factors sealed at rest.

Must never build a link from a request's Host header, nor believe a forwarded address.
"""

import base64
import os
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import quote, urlsplit

from allauth.account.adapter import DefaultAccountAdapter
from allauth.mfa.adapter import DefaultMFAAdapter
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from tenants import encryption, sign_ins, sso
from tenants.audit import client_ip
from tenants.models import User

_NONCE_BYTES: Final = 12
_BOUND_TO: Final = b"mfa_authenticator|data"
UNKNOWN_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - what a session shows whose peer has no address, not a bind
"""Behind a unix socket nobody has an address; limits by address then count everybody as one."""


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth ships no types
    """Sign-in by e-mail address and password, for people who are here already."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """The address the server vouches for: what limits count and sessions show."""
        return client_ip(request) or UNKNOWN_ADDRESS

    def get_reset_password_from_key_url(self, key: str) -> str:
        path = reverse("account_reset_password_from_key", kwargs={"uidb36": "UID", "key": "KEY"})
        return f"{settings.PUBLIC_URL}{path.replace('UID-KEY', quote(key))}"

    def format_email_subject(self, subject: str) -> str:
        return f"Tollhouse: {subject}"

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        site = SimpleNamespace(name="Tollhouse", domain=urlsplit(settings.PUBLIC_URL).netloc)
        self.render_mail(template_prefix, email, {"email": email, "current_site": site, **context}).send()

    def pre_login(self, request: HttpRequest, user: User, **kwargs: Any) -> HttpResponse | None:
        """Refuses every other way in to people whose tenant has them sign in at its own provider."""
        answer: HttpResponse | None = super().pre_login(request, user, **kwargs)
        if answer is not None or "sociallogin" in (kwargs.get("signal_kwargs") or {}):
            return answer
        connection = sso.enforced_for(user)
        if connection is None:
            return None
        sign_ins.note(
            "user.sign_in_refused", user=user, request=request, after={"use": f"SSO of {connection.tenant}"}
        )
        return render(request, "socialaccount/enforced.html", {"connection": connection}, status=403)

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        sign_ins.note_wrong_password(request, str(credentials.get("email") or ""))


class SecondFactorAdapter(DefaultMFAAdapter):  # type: ignore[misc]  # allauth ships no types
    """TOTP secrets and recovery seeds under a key of the operator's own; passkeys named after the house."""

    def encrypt(self, text: str) -> str:
        nonce = os.urandom(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher().encrypt(nonce, text.encode(), _BOUND_TO)).decode()

    def decrypt(self, encrypted_text: str) -> str:
        """Raises encryption.SealBrokenError: altered, or of another installation."""
        try:
            blob = base64.b64decode(encrypted_text, validate=True)
            return self._cipher().decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], _BOUND_TO).decode()
        except (InvalidTag, ValueError) as error:
            msg = "a second factor does not open"
            raise encryption.SealBrokenError(msg) from error

    def _cipher(self) -> AESGCM:
        # A derived key stays when data keys rotate: allauth's JSON is no column that resealing could walk.
        return AESGCM(encryption.derived_key(tenant=None, purpose="second factors"))

    def get_totp_issuer(self) -> str:
        return "Tollhouse"

    def _get_site_name(self) -> str:
        return "Tollhouse"
