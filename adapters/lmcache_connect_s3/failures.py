"""The errors for what an S3 server refuses, and `refusal`, which chooses the one for an answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from lmcache_connect import AuthenticationError, StoreError, StoreUnavailableError
from lmcache_connect.errors import StoreCommandError, StoreFullError, StoreProtocolError
from lmcache_connect.known_secrets import clean_foreign

from .documents import ErrorDocument


class NoSuchBucketError(StoreError):
    """The bucket does not exist there. Permanent."""

    permanent = True


class WrongEndpointError(StoreError):
    """The server redirects to another address, which is never followed: the signature is not for it. Permanent."""

    permanent = True


class UnsupportedRequestError(StoreCommandError):
    """The store does not have what an option of the URL asks for, such as tags or a storage class. Permanent."""

    permanent = True


class ArchivedObjectError(StoreError):
    """The object is in an archive (a storage class such as GLACIER), and has to be restored before it can be read."""


class ThrottledError(StoreUnavailableError):
    """The server asks for fewer requests (SlowDown, 503, 429). `retry_after` is seconds, where it says so.

    It is raised at once where the operation's deadline comes before that.
    """

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
_AGAIN: Final = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "XAmzContentSHA256Mismatch",
    }
)
_ELSEWHERE: Final = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "TemporaryRedirect",
    }
)
_UNSUPPORTED: Final = frozenset(
    {
        "InvalidEncryptionAlgorithmError",
        "InvalidStorageClass",
        "InvalidTag",
        "KMS.DisabledException",
        "KMS.NotFoundException",
        "MethodNotAllowed",
        "NotImplemented",
    }
)
_FULL: Final = frozenset(
    {"QuotaExceeded", "StorageFull", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientStorage"}
)
_TOO_LARGE: Final = frozenset({"EntityTooLarge"})

_MOST_SECONDS: Final = 86_400.0
"""The longest `Retry-After` that is told. No deadline is later."""


def refusal(
    store: str, operation: str, status: int, headers: Mapping[str, str], error: ErrorDocument | None
) -> StoreError:
    """Returns the error for an answer that refuses a request. `error`: of its body, where that names one.

    A code says more than a status, which a proxy may have set. What an operator has to mend is permanent: one request
    tells it. What may have passed a moment later is retryable, and stands for a lost store in the end. Everything else
    is an answer of a store that works.
    """
    code, message = (error.code, error.message) if error is not None else ("", "")
    said = f"{operation}: the server answers {status}" + (f" {clean_foreign(code)}" if code else "")
    if message:
        said += f" (it said: {clean_foreign(message)})"
    if code == "NoSuchBucket":
        return NoSuchBucketError(store, f"{said}; create the bucket, or correct its name")
    if code in _EXPIRED:
        return ExpiredCredentialsError(store, f"{said}; renew the credentials")
    if code in _ELSEWHERE or 300 <= status < 400 or (status == 421 and not code):
        region = headers.get("x-amz-bucket-region", "")
        hint = f"the bucket is in {_plain(region)}: set ?region=" if region else "set ?endpoint= and ?region="
        return WrongEndpointError(store, f"{said}; {hint}")
    if code in _FULL or status == 507:
        return StoreFullError(store, f"{said}; free space in the bucket, or raise its quota")
    if code in _UNSUPPORTED or status in {405, 501, 505}:
        return UnsupportedRequestError(store, f"{said}; {_advice(operation)}")
    if code == "InvalidObjectState":
        return ArchivedObjectError(store, f"{said}; choose a storage class that can be read at once")
    if code == "AccessDenied":
        return AccessDeniedError(store, f"{said}; check what the credentials may do")
    if code in _DENIED or (status in {401, 403, 407} and code not in _BUSY):
        return AuthenticationError(store, f"{said}; check the credentials and what they may do")
    if code in _BUSY or status in {429, 503, 509}:
        return ThrottledError(store, said, retry_after(headers.get("retry-after")))
    if code in _AGAIN or status >= 500 or status in {408, 425}:
        return StoreUnavailableError(store, said)
    if status < 300 or status == 416:  # 416 to a request without a range, or with one that stays open
        return StoreProtocolError(store, said)
    if code in _TOO_LARGE or status == 413:
        limit = "raise the limit of the store or the proxy before it, or put smaller parts: multipart_threshold"
        return StoreCommandError(store, f"{said}; {limit}")
    return StoreCommandError(store, said)


def retry_after(text: str | None) -> float | None:
    """Returns the seconds that a `Retry-After` asks to wait: a number, or a date. At most a day; None: not understood.

    A number may have any length: it comes from the peer.
    """
    if text is None or len(text) > 64:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text), _MOST_SECONDS)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return min(max((until - datetime.now(UTC)).total_seconds(), 0.0), _MOST_SECONDS)


def _advice(operation: str) -> str:
    if "put" in operation:
        return (
            "the store does not have what this put asks for: leave out the options tags, storage_class, sse, "
            "object_checksum or requester_pays, or raise multipart_threshold"
        )
    return "the store does not have this request: check that the endpoint speaks S3"


def _plain(text: str) -> str:
    is_name = text.isascii() and text.replace("-", "").isalnum()
    return clean_foreign(text, limit=40) if is_name else "another region"
