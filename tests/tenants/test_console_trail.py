"""A console action that writes in silence is told on."""

import logging

import pytest
from django.db import transaction
from django.http import HttpResponse
from django.test import RequestFactory

from tenants import audit
from tenants.console import platform_room
from tenants.errors import ApiError
from tenants.models import Tenant
from tests import factories


@pytest.fixture
def operator(db):
    factories.tenant("acme", name="Acme")
    return factories.user(operator_role="owner")


def post(view, user):
    request = RequestFactory().post("/platform/thing/")
    request.user = user
    return view(request)


def rename():
    Tenant.objects.filter(slug="acme").update(name="Renamed")


def silent(request):
    rename()
    return HttpResponse()


def test_a_silent_write_is_an_error_where_the_rule_is_strict(operator):
    with pytest.raises(RuntimeError, match="/platform/thing/ wrote without an audit event"):
        post(platform_room(write="tenants:write")(silent), operator)


def test_elsewhere_it_is_an_error_in_the_log(operator, settings, caplog):
    settings.TOLLHOUSE_AUDIT_STRICT = False
    with caplog.at_level(logging.ERROR, "tenants.console"):
        assert post(platform_room(write="tenants:write")(silent), operator).status_code == 200
    assert caplog.messages == ["/platform/thing/ wrote without an audit event"]


def test_a_declared_exception_and_a_write_with_its_event_are_fine(operator):
    def recorded(request):
        with transaction.atomic():
            rename()
            audit.record(principal=request.principal, action="x", object_type="x", object_id=1, tenant=None)
        return HttpResponse()

    assert post(platform_room(write="tenants:write", is_unaudited=True)(silent), operator).status_code == 200
    assert post(platform_room(write="tenants:write")(recorded), operator).status_code == 200


def test_what_was_rolled_back_or_refused_is_no_write(operator):
    def refused(request):
        try:
            with transaction.atomic():
                rename()
                raise ApiError("conflict", "No.")
        except ApiError:
            return HttpResponse(status=302, headers={"Location": "/"})

    def invalid(request):
        rename()
        return HttpResponse(status=422)

    assert post(platform_room(write="tenants:write")(refused), operator).status_code == 302
    assert Tenant.objects.get().name == "Acme"
    assert post(platform_room(write="tenants:write")(invalid), operator).status_code == 422
