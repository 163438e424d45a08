"""Errors as OpenAI's API words them, so that its clients raise their own exceptions."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from .settings import RETRY_AFTER

# How clients name the kind of an error, by its status. All other statuses below 500 are faults of the request.
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An error that a client is told about.

    Args:
        status (`int`): the HTTP status.
        message (`str`): one sentence that names the field, its value and the remedy.
        param (`str`, *optional*): the field of the request.
        code (`str`, *optional*): a name that programs can compare with.
        headers (`Mapping`, *optional*): further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        return JSONResponse(self.body(), self.status, self.headers)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A fault of the request, status 400."""
    return ApiError(400, message, param=param, code=code)


def busy(message: str, code: str) -> ApiError:
    """Too much at once, status 503; clients that wait as told try again."""
    return ApiError(503, message, code=code, headers={"Retry-After": str(RETRY_AFTER)})


__all__ = ["ApiError", "bad_request", "busy"]
