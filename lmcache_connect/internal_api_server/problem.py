"""`Problem`: the one shape of every answer to a request that failed."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from ..errors import (
    ConnectorClosedError,
    InvalidArgumentError,
    InvalidKeyError,
    LMCacheConnectError,
    StoreError,
    UnknownConnectorError,
    UnsupportedOperationError,
)
from ..known_secrets import clean
from ..observability import RepeatedEvent


class Problem(BaseModel):
    """What went wrong: `detail` is for people, `problem` for programs."""

    problem: str = Field(description="a word for the kind, such as `not_found` or the class of the error")
    detail: str = Field(description="what was wrong, what was expected, and what to do")


class ProblemError(HTTPException):
    """Raised by a route to answer with a `Problem`. Without `answer_errors` only the detail is answered."""

    def __init__(self, status: int, problem: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.problem = problem


_STATUS: Final[tuple[tuple[type[LMCacheConnectError], int], ...]] = (
    (UnknownConnectorError, 404),
    (InvalidKeyError, 422),
    (InvalidArgumentError, 422),
    (ConnectorClosedError, 409),
    (UnsupportedOperationError, 409),
    (StoreError, 502),
)

_ROUTE_FAILED: Final = RepeatedEvent("api_route_failed")

_WORDS: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may answer with these statuses, for the OpenAPI document."""
    return {status: {"model": Problem} for status in statuses}


def answer(status: int, problem: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A response with a `Problem` as its body."""
    return JSONResponse({"problem": clean(problem), "detail": clean(detail)}, status, headers=dict(headers or {}))


def answer_errors(app: FastAPI) -> None:
    """Makes an application answer the toolkit's errors, and the `ProblemError` of a route, with a `Problem`."""

    @app.exception_handler(ProblemError)
    async def _problem(_request: Request, error: ProblemError) -> JSONResponse:
        return answer(error.status_code, error.problem, error.detail, error.headers)

    @app.exception_handler(LMCacheConnectError)
    async def _connect(_request: Request, error: LMCacheConnectError) -> JSONResponse:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        return answer(status, type(error).__name__, str(error))


def answer_problems(app: FastAPI) -> None:
    """Makes an application answer every failure with a `Problem`."""
    answer_errors(app)

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, _WORDS.get(error.status_code, "http_error"), str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, "invalid_request", "; ".join(map(_explained, error.errors()[:5])))


def _explained(error: Mapping[str, Any]) -> str:
    """Says where and what. Never shows the input, which may hold anything, nor the name of an unknown field."""
    place = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return f"{'.'.join(place[:-1])}: a field that is not known here"
    return f"{'.'.join(place)}: {error['msg']}"


def answer_unexpected(path: str, error: Exception) -> JSONResponse:
    """The answer to an error that no route expects. Logs it with the place that it came from.

    The error's message is in neither: it may hold anything, secrets included.
    """
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    _ROUTE_FAILED.tell(logging.ERROR, path=path, error=type(error).__name__, where=where)
    return answer(500, "internal_error", f"a route failed with {type(error).__name__}; the log says where")
