"""The data plane as Django REST framework declares it: paths, schema, authentication, errors.

Under ASGI the same paths are answered by `edge.door` before Django is reached; these views call the very same
`answer`, so a deployment that goes through Django's middleware behaves alike, only slower.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.views import APIView

from gateway.edge.door import Request, Response, answer, check_head, refuse
from gateway.edge.openai import parse_body
from gateway.experiments import feedback
from gateway.experiments.models import Feedback
from gateway.logs.generations import generation_of
from gateway.pipeline.call import Caller
from gateway.pipeline.redact import redacted_texts
from gateway.pipeline.run import identify
from gateway.state import process as state
from tenants.errors import ApiError
from tenants.ids import uuid7
from tenants.scopes import grants

LEDGER_WAIT_S = 5.0
FEEDBACK_SCOPE = "inference:feedback"


class DataPlaneView(APIView):
    """Hands the request to the pipeline, which authenticates, limits and answers by itself."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    async def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        process = state.current()
        try:
            edge = to_edge(request, process.max_body_bytes)
        except ApiError as error:
            return to_django(refuse(error, str(uuid7())))
        return to_django(await answer(edge, process))


class PostView(DataPlaneView):
    async def post(self, request: HttpRequest) -> None:
        """Declared for the schema; `dispatch` answers."""


class GetView(DataPlaneView):
    async def get(self, request: HttpRequest, **kwargs: Any) -> None:
        """Declared for the schema; `dispatch` answers."""


class ErrorDetail(serializers.Serializer[Any]):
    message = serializers.CharField()
    type = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    code = serializers.CharField()
    request_id = serializers.CharField()


class ErrorBody(serializers.Serializer[Any]):
    error = ErrorDetail()


def declare(summary: str) -> Any:
    return extend_schema(
        summary=summary,
        tags=["data plane"],
        request=OpenApiTypes.OBJECT,
        responses={
            200: OpenApiTypes.OBJECT,
            **dict.fromkeys((400, 401, 402, 403, 404, 413, 422, 429, 502, 503, 504), ErrorBody),
        },
    )


@declare("Chat completion, whole or streamed (OpenAI's request and reply)")
class ChatCompletions(PostView):
    pass


@declare("Text completion, whole or streamed (OpenAI's request and reply)")
class Completions(PostView):
    pass


@declare("A message (Anthropic's request, reply and stream)")
class Messages(PostView):
    pass


@declare("A response (OpenAI's Responses, without stored state)")
class Responses(PostView):
    pass


@declare("generateContent and streamGenerateContent (Google's request, reply and stream)")
class GenerateContent(PostView):
    pass


@declare("Embeddings as floats or base64 (OpenAI's request and reply)")
class Embeddings(PostView):
    pass


@declare("Moderation of texts and pictures (OpenAI's request and reply)")
class Moderations(PostView):
    pass


@declare("Documents ranked by their relevance for a query (Cohere's and Jina's request and reply)")
class Rerank(PostView):
    pass


@declare("One model this key may use")
class Model(GetView):
    @extend_schema(operation_id="v1_model_retrieve")
    async def get(self, request: HttpRequest, **kwargs: Any) -> None:
        """Declared for the schema; `dispatch` answers."""


@declare("The models this key may use")
class Models(GetView):
    pass


class Unknown(PostView):
    schema = None


@declare("What was served for a request id: route, tokens, price, attempts")
class Generation(GetView):
    async def dispatch(self, request: HttpRequest, request_id: UUID, **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        process = state.current()
        try:
            edge = to_edge(request, process.max_body_bytes)
            caller = await identify(edge.headers, edge.client_ip, process)
            sees_cost = grants(caller.key.scopes, "cost:read")
            # The record needs a moment from the stream to the table; a client asks right after its answer.
            deadline = time.monotonic() + LEDGER_WAIT_S
            while True:
                found = await sync_to_async(generation_of)(request_id, caller.tenant.id, sees_cost=sees_cost)
                if found is not None:
                    return HttpResponse(found, content_type="application/json")
                if time.monotonic() > deadline:
                    raise ApiError("not_found", "No such generation.")
                await asyncio.sleep(0.2)
        except ApiError as error:
            return to_django(refuse(error, str(request_id)))  # type: ignore[return-value]


@declare("What the caller thinks of an answer: score, label, comment (scope inference:feedback)")
class GiveFeedback(PostView):
    async def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        process = state.current()
        id_text = str(uuid7())
        try:
            if request.method != "POST":
                raise ApiError("method_not_allowed", f"{request.path} takes POST.")
            edge = to_edge(request, process.max_body_bytes)
            caller = await identify(edge.headers, edge.client_ip, process)
            if not grants(caller.key.scopes, FEEDBACK_SCOPE):
                raise ApiError("permission_denied", f"This API key lacks the scope {FEEDBACK_SCOPE}.")
            verdict = feedback.read(parse_body(edge.body))
            said = {"label": verdict.label, "comment": verdict.comment}
            said = await redacted_texts(said, caller, process)
            verdict = replace(verdict, label=said["label"], comment=said["comment"])
            given, is_new = await self._give(verdict, caller)
        except ApiError as error:
            return to_django(refuse(error, id_text))  # type: ignore[return-value]
        made = HttpResponse(
            orjson.dumps(feedback.shown(given)),
            content_type="application/json",
            status=201 if is_new else 200,
        )
        made["x-request-id"] = id_text
        return made

    async def _give(self, verdict: feedback.Verdict, caller: Caller) -> tuple[Feedback, bool]:
        """Store it, as soon as the call's record is there: a client may be quick."""
        deadline = time.monotonic() + LEDGER_WAIT_S
        while True:
            try:
                return await sync_to_async(feedback.give)(
                    verdict=verdict, tenant_id=caller.tenant.id, api_key_id=caller.key.id
                )
            except ApiError:
                is_late = time.monotonic() > deadline
                if is_late or not feedback.may_come(verdict.request_id, now=time.time()):
                    raise
            await asyncio.sleep(0.2)


def to_edge(request: HttpRequest, limit: int) -> Request:
    """As `door.read`. Reads the body itself: `request.body` has Django's own, lower limit and HTML errors."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    check_head(headers, limit)
    body = request.read(limit + 1)
    if len(body) > limit:
        raise ApiError("payload_too_large", f"The body exceeds {limit} bytes.")
    query = request.META.get("QUERY_STRING", "")
    return Request(
        request.method or "GET", request.path, headers, body, request.META.get("REMOTE_ADDR", ""), query
    )


def to_django(response: Response) -> HttpResponse | StreamingHttpResponse:
    made: HttpResponse | StreamingHttpResponse
    if response.stream is not None:
        made = StreamingHttpResponse(_pieces(response.body, response.stream), status=response.status)
    else:
        made = HttpResponse(response.body, status=response.status)
    for name, value in response.headers:
        made[name.decode()] = value.decode("latin-1")
    return made


async def _pieces(first: bytes, stream: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(stream):
        yield first
        async for piece in stream:
            yield piece


urlpatterns = [
    path("chat/completions", ChatCompletions.as_view()),
    path("completions", Completions.as_view()),
    path("embeddings", Embeddings.as_view()),
    path("moderations", Moderations.as_view()),
    path("rerank", Rerank.as_view()),
    path("messages", Messages.as_view()),
    path("responses", Responses.as_view()),
    path("models", Models.as_view()),
    path("models/<path:model>", Model.as_view()),
    path("feedback", GiveFeedback.as_view()),
    path("generations/<uuid:request_id>", Generation.as_view()),
    path("<path:anything>", Unknown.as_view()),
]
google_urlpatterns = [
    path("models/<path:model_and_verb>", GenerateContent.as_view()),
    path("<path:anything>", Unknown.as_view()),
]
