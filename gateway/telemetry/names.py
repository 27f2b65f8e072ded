"""Every name that leaves for OpenTelemetry or Prometheus, in one place: the GenAI conventions still change.

https://opentelemetry.io/docs/specs/semconv/gen-ai/ (status: Development)
"""

from collections.abc import Mapping
from typing import Final

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - a name
ERROR_TYPE: Final = "error.type"
HTTP_METHOD: Final = "http.request.method"
HTTP_STATUS: Final = "http.response.status_code"

TENANT: Final = "tollhouse.tenant.id"
FEATURE: Final = "tollhouse.feature"
POLICY: Final = "tollhouse.policy"
REGION: Final = "tollhouse.region"
ATTEMPT: Final = "tollhouse.attempt"
COST_PICO: Final = "tollhouse.cost_pico"
PRICE_PICO: Final = "tollhouse.price_pico"
COST_CURRENCY: Final = "tollhouse.cost_currency"
PRICE_CURRENCY: Final = "tollhouse.price_currency"

OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105 - a name
TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
CALL_DURATION: Final = "tollhouse.call.duration"
COST: Final = "tollhouse.cost"
PRICE: Final = "tollhouse.price"

OPERATION_NAMES: Final[Mapping[str, str]] = {
    "chat": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
"""Our operations as the conventions call them; others keep our name."""


def prometheus(name: str, unit: str = "") -> str:
    """A metric or label in Prometheus's alphabet."""
    return name.replace(".", "_") + (f"_{unit}" if unit else "")
