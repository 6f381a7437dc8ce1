"""The errors for what an S3 server refuses, and `refusal`, which chooses the one for an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lmcache_connect import AuthenticationError, StoreError, StoreUnavailableError
from lmcache_connect.errors import StoreCommandError, StoreProtocolError

from .documents import ErrorDocument


class NoSuchBucketError(StoreError):
    """The bucket does not exist there. Permanent."""

    permanent = True


class WrongEndpointError(StoreError):
    """The server redirects to another address, which is never followed: the signature is not for it. Permanent."""

    permanent = True


class ThrottledError(StoreUnavailableError):
    """The server asks for fewer requests (SlowDown, 503, 429). `retry_after` is seconds, where it says so."""

    def __init__(self, store: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(store, message)
        self.retry_after = retry_after


class AccessDeniedError(AuthenticationError):
    """The credentials are good, and do not allow this request. It may be the answer for an object that is missing."""


class ExpiredCredentialsError(AuthenticationError):
    """Temporary credentials have expired. They are renewed once before this is raised."""


_DENIED: Final = frozenset(
    {
        "AccountProblem",
        "AllAccessDisabled",
        "InvalidAccessKeyId",
        "InvalidSecurity",
        "InvalidToken",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
_EXPIRED: Final = frozenset({"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException"})
_BUSY: Final = frozenset({"SlowDown", "ServiceUnavailable", "ThrottlingException", "RequestLimitExceeded"})
_AGAIN: Final = frozenset({"InternalError", "RequestTimeout", "OperationAborted", "BadDigest", "IncompleteBody"})
_ELSEWHERE: Final = frozenset({"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"})

_MOST_SECONDS: Final = 30.0


def refusal(
    store: str, operation: str, status: int, headers: Mapping[str, str], error: ErrorDocument | None
) -> StoreError:
    """Returns the error for an answer that refuses a request. `error`: of its body, where that names one."""
    code, message = (error.code, error.message) if error is not None else ("", "")
    said = f"{operation}: the server answers {status}" + (f" {code}" if code else "")
    if message:
        said += f" (it said: {message})"
    if code == "NoSuchBucket":
        return NoSuchBucketError(store, f"{said}; create the bucket, or correct its name")
    if code in _EXPIRED:
        return ExpiredCredentialsError(store, f"{said}; renew the credentials")
    if code in _ELSEWHERE or 300 <= status < 400:
        region = headers.get("x-amz-bucket-region", "")
        hint = f"the bucket is in {_plain(region)}: set ?region=" if region else "set ?endpoint= and ?region="
        return WrongEndpointError(store, f"{said}; {hint}")
    if code == "AccessDenied":
        return AccessDeniedError(store, f"{said}; check what the credentials may do")
    if code in _DENIED or (status in {401, 403} and code not in _BUSY):
        return AuthenticationError(store, f"{said}; check the credentials and what they may do")
    if status == 501 or code == "NotImplemented":
        return StoreCommandError(store, said)
    if code in _BUSY or status in {429, 503}:
        return ThrottledError(store, said, _retry_after(headers.get("retry-after")))
    if code in _AGAIN or status >= 500 or status == 408:
        return StoreUnavailableError(store, said)
    if status < 300:
        return StoreProtocolError(store, said)
    return StoreCommandError(store, said)


def _retry_after(text: str | None) -> float | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 6:
        return None
    return min(float(text), _MOST_SECONDS)


def _plain(text: str) -> str:
    return text[:40] if text.isascii() and text.replace("-", "").isalnum() else "another region"
