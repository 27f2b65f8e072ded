"""The frame of the control plane's REST API: who may, what is read strictly, what a write must leave behind.

Derive from `Resource` (all verbs), `ReadResource` (list and retrieve) or, for anything else, `Guarded`. A
view declares its scopes or is refused to everybody. What each kind of object needs:

* Platform-wide (providers): `read_scope`, `write_scope`, `section`. Only operators get in; with
  `is_open_to_tenants = True` whoever holds `read_scope` in any tenant may read.
* Tenant-owned at the top level (/budgets/): a model with `tenant` and an `OwnedQuerySet`; the serializer's
  `tenant` is a `TenantField`. Rows of other tenants do not exist.
* Tenant-owned and nested: mount under `tenants/<slug:tenant>/…`; `self.tenant` is set, the queryset is
  narrowed to it (by `tenant_lookup`), and new rows get it.

    class ProviderResource(Resource[Provider]):
        queryset = Provider.objects.all()
        serializer_class = ProviderSerializer      # a StrictSerializer
        read_scope, write_scope = "providers:read", "providers:write"
        section = "routing"                         # bumped with every write
        lookup_field = "slug"
        filters = {"kind": "kind"}                  # ?kind=… ; other parameters are refused

Every write runs in one transaction with its Idempotency-Key, its audit event and its config version; one
that leaves no audit event is rolled back with an error. `perform_create/update/destroy` do that by default;
override them to call a verb that audits itself, or call `self.record(...)`. A POST that changes nothing
(simulate, test) goes into `readonly_actions`; an action with a scope of its own into `action_scopes`.
Where the two-person rule is on (tenants/approvals.py), a change may be answered 202 with a proposal.
Answers are replayed without the fields in `secret_fields`: a key's text is shown once, even so.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC
from functools import partial
from typing import Any, ClassVar, Final, cast

import orjson
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import models, transaction
from django.utils import timezone
from rest_framework import exceptions, generics, mixins, serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from tenants import approvals, audit, idempotency, isolation, versions
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal
from tenants.schema import ControlPlaneSchema
from tenants.wire import MAX_BODY_BYTES, request_id_of

_SAFE_METHODS: Final = ("GET", "HEAD")


# ------------------------------------------------------------------ what comes in


class StrictSerializer(serializers.Serializer):  # type: ignore[type-arg]  # mixed into serializers of any model
    """Mixin (put it first): refuses fields it does not know or that only we set, instead of dropping them."""

    def to_internal_value(self, data: Any) -> Any:
        """Raises ApiError unknown_field with the field's path as `param`."""
        if isinstance(data, Mapping):
            for name in data:
                field = self.fields.get(str(name))
                if field is None or field.read_only or isinstance(field, serializers.HiddenField):
                    reason = "is read-only" if field is not None and field.read_only else "is unknown"
                    path = ".".join((*_path_of(self), str(name)))
                    raise ApiError("unknown_field", f"The field {path!r} {reason}.", param=path)
        return super().to_internal_value(data)


def _path_of(field: serializers.Field[Any, Any, Any, Any]) -> tuple[str, ...]:
    parent = getattr(field, "parent", None)
    if parent is None:
        return ()
    return (*_path_of(parent), field.field_name) if field.field_name else _path_of(parent)


class TenantField(serializers.SlugRelatedField[Tenant]):
    """A tenant by its slug, among those the principal has any business with. A stranger's does not exist."""

    def __init__(self, **options: Any) -> None:
        if not options.get("read_only"):
            options.setdefault("queryset", Tenant.objects.all())
        super().__init__(slug_field="slug", **options)

    def get_queryset(self) -> models.QuerySet[Tenant]:
        tenants = Tenant.objects.all()
        principal = self.context["request"].user
        if principal.is_operator:
            return tenants
        return tenants.filter(id__in=list(principal.tenant_scopes))


# ------------------------------------------------------------------ the frame of every view


class Guarded(APIView):
    """Scopes, one transaction per write, idempotency, audit, request ids: for any view (see the module)."""

    read_scope: ClassVar[str | None] = None
    write_scope: ClassVar[str | None] = None
    action_scopes: ClassVar[Mapping[str, str]] = {}
    readonly_actions: ClassVar[Collection[str]] = ()
    section: ClassVar[str | None] = None
    audit_type: ClassVar[str] = ""
    secret_fields: ClassVar[Collection[str]] = ()
    is_open_to_tenants: ClassVar[bool] = False
    max_body_bytes: ClassVar[int] = MAX_BODY_BYTES
    tenant_kwarg: ClassVar[str] = "tenant"
    http_method_names = ["get", "post", "put", "patch", "delete", "head"]

    schema = ControlPlaneSchema()
    tenant: Tenant | None = None

    @property
    def principal(self) -> Principal:
        return cast("Principal", self.request.user)

    # -- may they?

    def scope_wanted(self) -> str | None:
        """The scope this request needs; None refuses it."""
        action = getattr(self, "action", None)
        if action is not None and action in self.action_scopes:
            return self.action_scopes[action]
        return self.read_scope if self.request.method in _SAFE_METHODS else self.write_scope

    def authorize(self, principal: Principal) -> None:
        """Called before the handler. Raises ApiError permission_denied; not_found for a stranger's tenant."""
        method = str(self.request.method).lower()
        if method not in self.http_method_names or not hasattr(self, method):
            raise exceptions.MethodNotAllowed(str(self.request.method))
        scope = self.scope_wanted()
        if scope is None:
            raise ApiError("permission_denied", "This operation is not open.")
        slug = self.kwargs.get(self.tenant_kwarg)
        if slug is not None:
            self.tenant = Tenant.objects.filter(slug=slug).first()
            if self.tenant is None or not _knows(principal, self.tenant):
                raise ApiError("not_found", "There is no such tenant.")
            self.require(scope, self.tenant)
        elif not self._may_somewhere(principal, scope):
            raise self.refusal(principal, scope)

    def authorize_object(self, principal: Principal, obj: models.Model) -> None:
        """Called for every object fetched by `get_object`. Raises ApiError permission_denied."""
        scope = self.scope_wanted()
        if scope is None:
            raise ApiError("permission_denied", "This operation is not open.")
        is_open = self.is_open_to_tenants and self.request.method in _SAFE_METHODS
        if not is_open:
            self.require(scope, tenant_of(obj))

    def refusal(self, principal: Principal, scope: str) -> ApiError:
        """What to answer somebody who holds `scope` nowhere."""
        return _lacks(scope)

    def require(self, scope: str, tenant: Tenant | None) -> None:
        """Raise ApiError permission_denied unless the principal holds `scope` there (None: the platform)."""
        if not self.principal.can(scope, tenant.id if tenant else None):
            raise _lacks(scope)

    def _may_somewhere(self, principal: Principal, scope: str) -> bool:
        if principal.can(scope):
            return True
        is_owned = hasattr(getattr(self, "queryset", None), "visible_to")
        is_open = self.is_open_to_tenants and self.request.method in _SAFE_METHODS
        return (is_owned or is_open) and bool(principal.tenants_with(scope))

    # -- the life of a request

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as self._walls:
            response = super().dispatch(request, *args, **kwargs)
        principal = getattr(self.request, "_user", None)
        return isolation.streamed(response, principal) if isinstance(principal, Principal) else response

    def perform_authentication(self, request: Request) -> None:
        """From here on the database shows the principal's tenants alone."""
        if isinstance(request.user, Principal):
            self._walls.enter_context(isolation.only(request.user))

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self._refuse_large_body(request)
        super().initial(request, *args, **kwargs)
        method = str(request.method).lower()
        handler = getattr(self, method)  # `authorize` has seen that there is one
        is_read = request.method in _SAFE_METHODS or getattr(self, "action", None) in self.readonly_actions
        enter = self._read if is_read else self._write
        setattr(self, method, partial(enter, handler))  # DRF looks the handler up after initial()

    def _refuse_large_body(self, request: Request) -> None:
        declared = request.META.get("CONTENT_LENGTH") or ""
        if not declared and request.META.get("HTTP_TRANSFER_ENCODING"):
            raise ApiError("invalid_request", "Send the body with a Content-Length.")
        if declared.isdecimal() and int(declared) > self.max_body_bytes:
            raise ApiError("payload_too_large", f"The body may hold {self.max_body_bytes} bytes.")

    def _origin(self, request: Request) -> AbstractContextManager[audit.Origin]:
        plain_request = request._request
        return audit.origin(
            ip=audit.client_ip(plain_request),
            request_id=request_id_of(plain_request),
            reason=audit.reason_given(plain_request),
        )

    def _read(
        self, handler: Callable[..., Response], request: Request, *args: Any, **kwargs: Any
    ) -> Response:
        with self._origin(request):  # a read may leave an event: `audit.record_access`
            return handler(request, *args, **kwargs)

    def _write(
        self, handler: Callable[..., Response], request: Request, *args: Any, **kwargs: Any
    ) -> Response:
        key = request.headers.get("Idempotency-Key")
        claimed: idempotency.Claim | None = None
        with transaction.atomic(), self._origin(request) as origin:
            if key is not None:
                fingerprint = idempotency.fingerprint_of(
                    method=str(request.method), path=request.get_full_path(), body=request.data
                )
                found = idempotency.claim(
                    principal=self.principal, key=key, fingerprint=fingerprint, now=timezone.now()
                )
                if isinstance(found, idempotency.Replay):
                    return Response(found.body, found.status, headers={"Idempotent-Replayed": "true"})
                claimed = found
            try:
                with transaction.atomic():
                    response = handler(request, *args, **kwargs)
            except approvals.ApprovalRequiredError as needed:
                response = self._propose(needed)
            if response.status_code >= 400:
                transaction.set_rollback(True)
                return response
            if not origin.events:
                msg = f"{type(self).__name__} wrote without an audit event"
                raise RuntimeError(msg)
            if claimed is not None:
                idempotency.keep(
                    claimed, status=response.status_code, body=self._without_secrets(response.data)
                )
        return response

    def _propose(self, needed: approvals.ApprovalRequiredError) -> Response:
        """202: nothing has changed, and the proposal waits for another person."""
        proposal = approvals.propose(draft=needed.draft, actor=needed.actor, now=timezone.now())
        return Response({"proposal": approvals.as_json(proposal)}, status=202)

    def _without_secrets(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            data = {name: None if name in self.secret_fields else value for name, value in data.items()}
        return plain(data)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response.headers["X-Request-Id"] = request_id_of(getattr(request, "_request", request))
        response.headers["Cache-Control"] = "no-store"
        return super().finalize_response(request, response, *args, **kwargs)

    # -- what a write leaves behind

    def record(
        self,
        verb: str,
        obj: models.Model,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Bump the section and append the audit event `<audit_type>.<verb>`: in this order, as everywhere."""
        if self.section is not None:
            versions.bump(self.section)
        audit_type = self.audit_type or str(obj._meta.model_name)
        audit.record(
            principal=self.principal,
            action=f"{audit_type}.{verb}",
            object_type=audit_type,
            object_id=obj.pk,
            tenant=tenant_of(obj),
            before=before,
            after=after,
        )


class ReadResource[M: models.Model](
    Guarded, mixins.ListModelMixin, mixins.RetrieveModelMixin, GenericViewSet[M]
):
    """List and retrieve. `filters` maps a query parameter to an ORM lookup; others are refused."""

    filters: ClassVar[Mapping[str, str]] = {}
    tenant_lookup: ClassVar[str] = "tenant"
    ordering: ClassVar[str] = "-id"

    def get_queryset(self) -> models.QuerySet[M]:
        """The rows that exist for this principal: its tenants', or those of the tenant in the path."""
        rows = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):  # drf-spectacular looks at the model, nobody asks
            return rows
        if self.tenant is not None:
            return rows.filter(**{self.tenant_lookup: self.tenant})
        if not hasattr(rows, "visible_to"):
            return rows
        scopes = {scope for scope in (self.read_scope, self.scope_wanted()) if scope is not None}
        first, *others = (rows.visible_to(self.principal, scope) for scope in sorted(scopes))
        for other in others:
            first = first | other
        return cast("models.QuerySet[M]", first)

    def refusal(self, principal: Principal, scope: str) -> ApiError:
        """A tenant's object does not exist for a stranger, also where nothing they asked for would be allowed."""
        key = self.kwargs.get(self.lookup_url_kwarg or self.lookup_field)
        rows = super().get_queryset()
        if key is None or not hasattr(rows, "visible_to"):
            return _lacks(scope)
        obj = generics.get_object_or_404(rows, **{self.lookup_field: key})
        tenant = tenant_of(obj)
        is_known = principal.is_operator if tenant is None else _knows(principal, tenant)
        return _lacks(scope) if is_known else ApiError("not_found", "There is no such object.")

    def filter_queryset(self, queryset: Any) -> Any:
        """Raises ApiError: unknown_field for a parameter we do not know, invalid_request for a bad value."""
        rows = super().filter_queryset(queryset)
        if getattr(self, "action", None) != "list":
            return rows
        given = self.request.query_params.items()
        return self.filtered(
            rows, {name: str(text) for name, text in given if name not in ("cursor", "limit")}
        )

    def filtered(self, rows: models.QuerySet[M], given: Mapping[str, str]) -> models.QuerySet[M]:
        """The rows that these parameters leave. Raises ApiError as `filter_queryset`."""
        for name, value in given.items():
            if name not in self.filters:
                raise ApiError("unknown_field", f"The parameter {name!r} is unknown.", param=name)
            lookup = self.filters[name]
            try:
                rows = rows.filter(**{lookup: _moment(value) if _is_moment(rows.model, lookup) else value})
            except (ValueError, DjangoValidationError, exceptions.ValidationError) as error:
                raise ApiError(
                    "invalid_request", f"The parameter {name!r} has no such value.", param=name
                ) from error
        return rows


class Resource[M: models.Model](
    mixins.CreateModelMixin, mixins.UpdateModelMixin, mixins.DestroyModelMixin, ReadResource[M]
):
    """List, retrieve, create, change (PATCH, PUT), delete; narrow it with `http_method_names`."""

    http_method_names = ["get", "post", "patch", "delete", "head"]

    def picture(self, obj: M) -> dict[str, Any]:
        """The object as the audit trail shows it: as its serializer does."""
        return cast("dict[str, Any]", plain(self.get_serializer(obj).data))

    def perform_create(self, serializer: serializers.BaseSerializer[M]) -> None:
        fixed: dict[str, Any] = {}
        if self.tenant is not None:
            fixed["tenant"] = self.tenant
        elif _is_owned(serializer):
            self.require(str(self.scope_wanted()), serializer.validated_data.get("tenant"))
        obj = serializer.save(**fixed)
        self.record("create", obj, after=self.picture(obj))

    def perform_update(self, serializer: serializers.BaseSerializer[M]) -> None:
        obj = cast("M", serializer.instance)
        given = serializer.validated_data
        if "tenant" in given and given["tenant"] != tenant_of(obj):
            raise ApiError("invalid_request", "An object cannot move to another tenant.", param="tenant")
        before = self.picture(obj)
        obj = serializer.save()
        after = self.picture(obj)
        changed = [name for name in after if after[name] != before.get(name)]
        self.record(
            "update",
            obj,
            before={name: before.get(name) for name in changed},
            after={name: after[name] for name in changed},
        )

    def perform_destroy(self, instance: M) -> None:
        self.record("delete", instance, before=self.picture(instance))
        instance.delete()


def tenant_of(obj: models.Model) -> Tenant | None:
    """The tenant an object belongs to; None for the operator's own."""
    return obj if isinstance(obj, Tenant) else getattr(obj, "tenant", None)


def plain(data: Any) -> Any:
    """`data` as the JSON the client gets (dates, decimals and UUIDs as text)."""
    return None if data is None else orjson.loads(JSONRenderer().render(data))


def _is_moment(model: type[models.Model], lookup: str) -> bool:
    """Whether the lookup's own column is an instant; a look through a relation never is."""
    name, _, _ = lookup.partition("__")
    return isinstance(model._meta.get_field(name), models.DateTimeField)


def _moment(text: str) -> Any:
    """An RFC 3339 instant; UTC when it names no zone."""
    return serializers.DateTimeField(default_timezone=UTC).run_validation(text)


def _is_owned(serializer: serializers.BaseSerializer[Any]) -> bool:
    model = getattr(getattr(serializer, "Meta", None), "model", None)
    return model is not None and any(field.name == "tenant" for field in model._meta.fields)


def _knows(principal: Principal, tenant: Tenant) -> bool:
    return principal.is_operator or tenant.id in principal.tenant_scopes


def _lacks(scope: str) -> ApiError:
    return ApiError("permission_denied", f"This needs the scope {scope!r}.")
