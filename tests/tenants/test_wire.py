"""The wire as a client meets it, through two small views."""

import logging
from itertools import chain

import pytest
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import DataError, IntegrityError, OperationalError, connection
from django.http import Http404
from django.urls import path
from hypothesis import given
from hypothesis import strategies as st
from rest_framework import exceptions, serializers
from rest_framework.response import Response
from rest_framework.test import APIClient
from rest_framework.views import APIView

from tenants.errors import ApiError
from tenants.ids import uuid7
from tenants.models import Tenant
from tenants.rest import Guarded, ReadResource, StrictSerializer
from tests import factories

pytestmark = pytest.mark.urls(__name__)


class Inner(StrictSerializer):
    amount = serializers.IntegerField()
    made_at = serializers.DateTimeField(read_only=True)


class Outer(StrictSerializer):
    name = serializers.CharField()
    inner = Inner(required=False)
    many = Inner(many=True, required=False)
    hidden = serializers.HiddenField(default=1)


class Echo(Guarded):
    """Answers what it understood."""

    read_scope = write_scope = "tenants:read"
    action = "echo"
    readonly_actions = ("echo",)
    max_body_bytes = 2000

    def post(self, request):
        serializer = Outer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return Response({"name": serializer.validated_data["name"]})


class Failing(Guarded):
    """Raises what the test gave it."""

    read_scope = "tenants:read"
    error: Exception

    def get(self, request):
        raise self.error


class Undeclared(APIView):
    """A view whose author forgot the scopes."""

    def get(self, request):
        return Response("open!")


class UndeclaredScope(Guarded):
    """A guarded view whose author forgot the write scope."""

    read_scope = "tenants:read"

    def get(self, request):
        return Response("fine")

    def post(self, request):
        return Response("open!")


class Row(serializers.ModelSerializer):
    class Meta:
        model = Tenant
        fields = ("slug",)


class BySlug(ReadResource):
    queryset = Tenant.objects.all()
    serializer_class = Row
    read_scope = "tenants:read"
    ordering = "slug"


class ById(BySlug):
    ordering = "-id"


urlpatterns = [
    path("echo/", Echo.as_view()),
    path("failing/", Failing.as_view()),
    path("undeclared/", Undeclared.as_view()),
    path("undeclared-scope/", UndeclaredScope.as_view()),
    path("by-slug/", BySlug.as_view({"get": "list"})),
    path("by-id/", ById.as_view({"get": "list"})),
]


@pytest.fixture
def client(db):
    return factories.client_with(None, "*")


def send(client, body, content_type="application/json", **headers):
    response = client.generic("POST", "/echo/", body, content_type=content_type, headers=headers)
    error = response.json().get("error", {})
    return response.status_code, error.get("code"), error.get("param")


# ------------------------------------------------------------------ bodies


def test_a_strict_body_is_understood(client):
    response = client.post("/echo/", {"name": "a", "many": [{"amount": 1}]}, format="json")
    assert (response.status_code, response.json()) == (200, {"name": "a"})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"nan",
        b'{"name": NaN}',
        b'{"name": Infinity}',
        b'{"name": "\\ud800"}',
        b'{"name": "\xff"}',
        b'\xef\xbb\xbf{"name": "a"}',
        b'{"name": ' + b"[" * 40 + b"]" * 40 + b"}",
        b"[" * 1900,
        '{"name": "a"}'.encode("utf-16"),
        b'{"name": "nul \\u0000"}',
    ],
)
def test_what_is_not_one_strict_object_is_refused(client, body):
    status, code, _ = send(client, body)
    assert (status, code) == (400, "invalid_request")


def test_the_charset_must_be_utf_8(client):
    assert send(client, b'{"name": "a"}', "application/json; charset=UTF-8") == (200, None, None)
    assert send(client, b'{"name": "a"}', "application/json; charset=latin-1") == (
        400,
        "invalid_request",
        None,
    )


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml"]
)
def test_another_content_type_is_refused(client, content_type):
    assert send(client, b"name=a", content_type) == (415, "unsupported_media_type", None)


def test_a_large_body_is_refused_before_it_is_parsed(client):
    assert send(client, b"x" * 2001) == (413, "payload_too_large", None)
    assert send(client, b'{"name": "a"}'.ljust(2000)) == (200, None, None)


def test_a_body_of_undeclared_length_is_refused(client):
    response = client.post("/echo/", headers={"Transfer-Encoding": "chunked"}, CONTENT_LENGTH="")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "a", "extra": 1}, "extra"),
        ({"name": "a", "hidden": 2}, "hidden"),
        ({"name": "a", "inner": {"amount": 1, "extra": 1}}, "inner.extra"),
        ({"name": "a", "inner": {"amount": 1, "made_at": "2026-01-01T00:00:00Z"}}, "inner.made_at"),
        ({"name": "a", "many": [{"amount": 1}, {"amount": 1, "extra": 1}]}, "many.extra"),
    ],
)
def test_unknown_and_read_only_fields_are_refused_by_name(client, body, param):
    response = client.post("/echo/", body, format="json")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "unknown_field", param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": {}}, "name"),
        ({"name": "a", "inner": {"amount": "much"}}, "inner.amount"),
        ({"name": "a", "many": [{"amount": 1}, {}]}, "many.1.amount"),
        ({"name": "a", "many": {"amount": 1}}, "many"),
    ],
)
def test_a_bad_value_is_refused_by_its_path(client, body, param):
    response = client.post("/echo/", body, format="json")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_request", param)


@pytest.fixture
def echo(client):
    return client


def test_no_bytes_make_it_fail(echo):
    @given(st.binary(max_size=200))
    def refused_or_understood(body):
        assert send(echo, body)[0] in (200, 400)

    refused_or_understood()


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ApiError("budget_exceeded", "x"), 402, "budget_exceeded"),
        (exceptions.ValidationError({"a": ["x"]}), 400, "invalid_request"),
        (exceptions.ValidationError("x", code="unique"), 409, "conflict"),
        (exceptions.NotAuthenticated(), 401, "invalid_api_key"),
        (exceptions.AuthenticationFailed(), 401, "invalid_api_key"),
        (exceptions.PermissionDenied(), 403, "permission_denied"),
        (PermissionDenied(), 403, "permission_denied"),
        (exceptions.NotFound(), 404, "not_found"),
        (Http404(), 404, "not_found"),
        (exceptions.Throttled(2.2), 429, "rate_limit_exceeded"),
        (exceptions.ParseError(), 400, "invalid_request"),
        (exceptions.NotAcceptable(), 400, "invalid_request"),
        (RequestDataTooBig(), 413, "payload_too_large"),
        (SuspiciousOperation(), 400, "invalid_request"),
        (DjangoValidationError("x"), 400, "invalid_request"),
        (IntegrityError(), 409, "conflict"),
        (DataError(), 400, "invalid_request"),
    ],
)
def test_every_exception_becomes_the_error_object(client, monkeypatch, error, status, code):
    monkeypatch.setattr(Failing, "error", error, raising=False)
    response = client.get("/failing/")
    body = response.json()["error"]
    assert (response.status_code, body["code"]) == (status, code)
    assert set(body) == {"message", "type", "param", "code", "request_id"}
    assert body["request_id"] == response["X-Request-Id"]
    assert response["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OperationalError("connection to 10.0.0.5 refused"), 503, "overloaded"),
        (ZeroDivisionError("secret detail"), 500, "internal_error"),
    ],
)
def test_our_own_failures_are_logged_and_say_nothing_of_the_inside(
    client, monkeypatch, caplog, error, status, code
):
    monkeypatch.setattr(Failing, "error", error, raising=False)
    with caplog.at_level(logging.ERROR):
        response = client.get("/failing/")
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert str(error) not in response.text
    assert response["X-Request-Id"] in caplog.text


def test_retry_after_is_in_whole_seconds_up(client, monkeypatch):
    monkeypatch.setattr(Failing, "error", ApiError("conflict", "x", retry_after_s=0.2), raising=False)
    assert client.get("/failing/")["Retry-After"] == "1"


def test_a_broken_rule_of_the_database_is_the_callers_mistake(client, monkeypatch):
    from django.db import transaction

    with pytest.raises(IntegrityError) as caught, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE tenants_apikey SET limit_rpm = -1")
    monkeypatch.setattr(Failing, "error", caught.value, raising=False)
    response = client.get("/failing/")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


def test_a_clients_request_id_is_not_echoed(client):
    assert client.post("/echo/", {"name": "a"}, format="json", headers={"X-Request-Id": "mine"})[
        "X-Request-Id"
    ] not in ("mine", "")


def test_an_error_says_how_to_sign_in(db):
    response = APIClient().post("/echo/", {"name": "a"}, format="json")
    assert (response.status_code, response["WWW-Authenticate"]) == (401, 'Bearer realm="tollhouse"')


@pytest.mark.parametrize(("method", "url"), [("put", "/echo/"), ("delete", "/by-id/"), ("options", "/echo/")])
def test_a_method_that_is_not_there_is_405(client, method, url):
    response = getattr(client, method)(url)
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


# ------------------------------------------------------------------ denied by default


def test_a_view_without_a_scope_is_refused_even_to_the_owner(client):
    assert client.get("/undeclared/").status_code == 403
    assert client.get("/undeclared-scope/").status_code == 200
    assert client.post("/undeclared-scope/", {}, format="json").status_code == 403


# ------------------------------------------------------------------ pages


@pytest.fixture
def slugs(db):
    return [factories.tenant(f"t{number:02}", id=uuid7(number)).slug for number in range(7)]


def pages(client, url, limit):
    seen, cursor = [], ""
    while cursor is not None:
        body = client.get(url, {"limit": limit} | ({"cursor": cursor} if cursor else {})).json()
        assert set(body) == {"data", "next_cursor"}
        seen.append([row["slug"] for row in body["data"]])
        cursor = body["next_cursor"]
    return seen


@pytest.mark.parametrize(("limit", "sizes"), [(3, [3, 3, 1]), (7, [7]), (1, [1] * 7), (200, [7])])
def test_pages_hold_every_row_once_in_order(client, slugs, limit, sizes):
    assert [len(page) for page in pages(client, "/by-slug/", limit)] == sizes
    assert list(chain.from_iterable(pages(client, "/by-slug/", limit))) == slugs
    assert list(chain.from_iterable(pages(client, "/by-id/", limit))) == slugs[::-1]


def test_a_row_added_meanwhile_moves_nothing(client, slugs):
    first = client.get("/by-id/", {"limit": 3}).json()
    factories.tenant("new")
    second = client.get("/by-id/", {"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [row["slug"] for row in second["data"]] == ["t03", "t02", "t01"]


@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "", "1.5", "²", "9" * 400])
def test_a_limit_out_of_range_is_refused(client, limit):
    error = client.get("/by-id/", {"limit": limit}).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", "limit")


@pytest.mark.parametrize("cursor", ["x", "!!!", "bm90LWEtdXVpZA", "AAAA", "é", "/w"])
def test_a_foreign_cursor_is_refused(client, slugs, cursor):
    response = client.get("/by-id/", {"cursor": cursor})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


def test_an_unknown_parameter_is_refused(client):
    error = client.get("/by-id/", {"sort": "slug"}).json()["error"]
    assert (error["code"], error["param"]) == ("unknown_field", "sort")
