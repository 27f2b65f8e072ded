"""The public error taxonomy: code, status and words. Every floor raises these; only the edge shows them."""

from collections.abc import Mapping

STATUS_OF: Mapping[str, int] = {
    "invalid_request": 400,
    "unknown_field": 400,
    "context_length_exceeded": 400,
    "content_policy_violation": 400,
    "guardrail_blocked": 400,
    "url_not_allowed": 400,
    "invalid_api_key": 401,
    "key_expired": 401,
    "key_revoked": 401,
    "budget_exceeded": 402,
    "model_unpriced": 402,
    "permission_denied": 403,
    "model_not_allowed": 403,
    "region_not_allowed": 403,
    "model_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "region_unavailable": 422,
    "unsupported_parameter": 422,
    "rate_limit_exceeded": 429,
    "concurrency_exceeded": 429,
    "internal_error": 500,
    "provider_unavailable": 502,
    "provider_invalid_response": 502,
    "provider_overloaded": 503,
    "overloaded": 503,
    "shutting_down": 503,
    "budget_unavailable": 503,
    "provider_timeout": 504,
}

TYPE_OF_STATUS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    502: "provider_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """An answer other than success, in the words of API.md. `retry_after_s` becomes Retry-After."""

    def __init__(
        self, code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        return STATUS_OF[self.code]

    @property
    def type(self) -> str:
        return TYPE_OF_STATUS[self.status]

    def body(self, request_id: str) -> dict[str, object]:
        """The OpenAI-shaped error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
                "request_id": request_id,
            }
        }


def shutting_down() -> ApiError:
    """What a worker says that has been told to stop."""
    return ApiError("shutting_down", "This worker is shutting down.", retry_after_s=1)
