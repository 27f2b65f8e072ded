"""Pages before the console's door: to one's own provider, and in with an invitation.

They are open to everybody and say no more than the e-mail address or the link already knew. What allauth
serves of its own stands in `door_urlpatterns`, view by view: its pages to change addresses and to sign up are
left out.
"""

from typing import cast

from allauth.account import views as account
from allauth.account.adapter import get_adapter
from allauth.account.utils import perform_login
from allauth.core import ratelimit
from django import forms
from django.contrib import messages
from django.contrib.auth.password_validation import password_validators_help_texts
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import URLPattern, URLResolver, include, path, re_path, reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods
from django.views.generic import TemplateView

from tenants import audit, invitations, oidc, sso
from tenants.console import add_refusal
from tenants.errors import ApiError
from tenants.ids import uuid7
from tenants.models import Invitation, Membership, User


class SsoForm(forms.Form):
    email = forms.EmailField(
        label="E-mail", widget=forms.EmailInput(attrs={"autocomplete": "username", "autofocus": True})
    )


class NewPersonForm(forms.Form):
    name = forms.CharField(
        label="Your name",
        max_length=200,
        required=False,
        widget=forms.TextInput(attrs={"autocomplete": "name"}),
    )
    password = forms.CharField(
        label="Choose a password",
        strip=False,
        max_length=1000,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=" ".join(password_validators_help_texts()),
    )


@require_http_methods(["GET", "POST"])
def sso_start(request: HttpRequest) -> HttpResponse:
    """From an e-mail address to the provider that speaks for it.

    A form may not end at another origin (form-action 'self', redirects included), so the answer to the POST is
    a page that goes on by itself.
    """
    form = SsoForm(request.POST or None)
    if request.method == "POST":
        limited = ratelimit.consume_or_429(request, action="login")
        if limited is not None:
            return cast("HttpResponse", limited)
        if form.is_valid():
            email = form.cleaned_data["email"]
            connection = sso.connection_for(email)
            if connection is not None:
                request.session[oidc.HINT] = email
                url = reverse("openid_connect_login", args=(str(connection.pk),))
                next_url = request.POST.get("next", "")
                if next_url and get_adapter().is_safe_url(next_url):
                    url = f"{url}?{urlencode({'next': next_url})}"
                return render(request, "socialaccount/go.html", {"connection": connection, "url": url})
            form.add_error("email", "No workspace has single sign-on for this address. Use your password.")
    context = {"form": form, "next": request.GET.get("next", request.POST.get("next", ""))}
    return render(request, "socialaccount/start.html", context, status=422 if form.is_bound else 200)


@require_http_methods(["GET", "POST"])
def accept_invitation(request: HttpRequest, token: str) -> HttpResponse:
    """Who invites to what; then a password for a new person, or a yes of a known one who is signed in."""
    with audit.origin(ip=audit.client_ip(request), request_id=str(uuid7())):
        answer = _invited(request, token)
    add_never_cache_headers(answer)
    answer.headers["Referrer-Policy"] = "no-referrer"  # the token stands in the path
    return answer


def _invited(request: HttpRequest, token: str) -> HttpResponse:
    now = timezone.now()
    invitation = invitations.find(token, now=now)
    if invitation is None:
        return render(request, "account/invitation.html", {"invitation": None}, status=404)
    user = request.user if isinstance(request.user, User) else None
    if user is not None:
        return _invited_person(request, invitation, user)
    connection = sso.connection_for(invitation.email)
    is_sso_alone = (
        connection is not None and connection.is_enforced and invitation.role != Membership.Role.OWNER
    )
    if invitations.has_account(invitation) or is_sso_alone:
        context = {"invitation": invitation, "sso": connection, "is_sso_alone": is_sso_alone}
        return render(request, "account/invitation.html", context)
    form = NewPersonForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            made = invitations.accept_as_new(invitation=invitation, now=now, **form.cleaned_data)
        except ApiError as error:
            add_refusal(form, error)
        else:
            home = reverse("tenant_home", args=(invitation.tenant.slug,))
            return cast(
                "HttpResponse", perform_login(request, made, email_verification="none", redirect_url=home)
            )
    status = 422 if form.is_bound else 200
    return render(
        request,
        "account/invitation.html",
        {"invitation": invitation, "form": form, "sso": connection},
        status=status,
    )


def _invited_person(request: HttpRequest, invitation: Invitation, user: User) -> HttpResponse:
    is_theirs = user.email.lower() == invitation.email.lower()
    if request.method == "POST" and is_theirs:
        try:
            invitations.accept(invitation=invitation, user=user, now=timezone.now())
        except ApiError as error:
            messages.error(request, error.message)
            return redirect("home")
        messages.success(request, f"You are a member of {invitation.tenant.name} now.")
        return redirect("tenant_home", tenant_slug=invitation.tenant.slug)
    context = {"invitation": invitation, "person": user, "is_theirs": is_theirs}
    return render(request, "account/invitation.html", context)


door_urlpatterns: list[URLPattern | URLResolver] = [
    path("login/", account.login, name="account_login"),
    path("logout/", account.logout, name="account_logout"),
    path("inactive/", account.account_inactive, name="account_inactive"),
    path("signup/", TemplateView.as_view(template_name="account/signup_closed.html"), name="account_signup"),
    path("reauthenticate/", account.reauthenticate, name="account_reauthenticate"),
    path("password/change/", account.password_change, name="account_change_password"),
    path("password/set/", account.password_set, name="account_set_password"),
    path("password/reset/", account.password_reset, name="account_reset_password"),
    path("password/reset/done/", account.password_reset_done, name="account_reset_password_done"),
    path(
        "password/reset/key/done/",
        account.password_reset_from_key_done,
        name="account_reset_password_from_key_done",
    ),
    re_path(
        r"^password/reset/key/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>.+)/$",
        account.password_reset_from_key,
        name="account_reset_password_from_key",
    ),
    path("2fa/", include("allauth.mfa.urls")),
    path("sso/", sso_start, name="sso_start"),
    path(
        "sso/cancelled/",
        TemplateView.as_view(template_name="socialaccount/cancelled.html"),
        name="socialaccount_login_cancelled",
    ),
    path("oidc/<str:provider_id>/login/", oidc.login, name="openid_connect_login"),
    path("oidc/<str:provider_id>/login/callback/", oidc.callback, name="openid_connect_callback"),
    path("invitations/<str:token>/", accept_invitation, name="accept_invitation"),
]
