"""What the caller is told when no answer can be given: a provider's failure in the words of the public contract."""

from gateway.pipeline.attempt import from_client
from gateway.pipeline.call import Call
from gateway.pipeline.course import Course
from gateway.state.clients import ClientError
from routing.types import ErrorKind, ProviderError
from tenants.errors import ApiError

DEFAULT_RETRY_AFTER_S = 5.0
AT_LIMIT = frozenset((ErrorKind.RATE_LIMITED, ErrorKind.OVERLOADED))


def refusal(error: ProviderError) -> ApiError:
    """The caller's own fault, in the provider's words."""
    code = {
        ErrorKind.CONTENT_POLICY: "content_policy_violation",
        ErrorKind.CONTEXT_LENGTH: "context_length_exceeded",
    }.get(error.kind, "invalid_request")
    return ApiError(code, error.message, param=error.param)


def exhausted(call: Call, course: Course) -> ApiError:
    """Every target failed: the error that tells the caller best what to do now."""
    kinds = {attempt.error_type for attempt in call.attempts}
    refused = course.unsupported
    if refused is not None and not kinds:
        return ApiError("unsupported_parameter", str(refused), param=refused.param)
    if ErrorKind.CONTEXT_LENGTH in kinds:
        return ApiError(
            "context_length_exceeded", "The request is too long for every model that could serve it."
        )
    if kinds <= AT_LIMIT and (kinds or course.ready_in_s is not None):
        wait_s = DEFAULT_RETRY_AFTER_S if course.ready_in_s is None else course.ready_in_s
        return ApiError("provider_overloaded", "Every provider is at its limit.", retry_after_s=wait_s)
    last = call.attempts[-1].error_type if call.attempts else ErrorKind.TIMEOUT
    if last == ErrorKind.TIMEOUT:
        return ApiError("provider_timeout", "No provider answered in time.")
    if last == ErrorKind.INVALID_RESPONSE:
        return ApiError("provider_invalid_response", "No provider gave a usable answer.")
    return ApiError("provider_unavailable", "No provider could serve the request.")


def broken(failure: Exception) -> ApiError:
    """The error event that ends a stream after its first byte."""
    error = from_client(failure) if isinstance(failure, ClientError) else failure
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ProviderError):
        code = "provider_timeout" if error.kind is ErrorKind.TIMEOUT else "provider_invalid_response"
        return ApiError(code, f"The stream was interrupted: {error.message}")
    return ApiError("provider_timeout", "The stream ran out of time.")
