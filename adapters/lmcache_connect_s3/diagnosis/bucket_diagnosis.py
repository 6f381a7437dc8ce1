"""`BucketDiagnosis`: from the store's name to what may be done in the bucket."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.contract import Finding, Verdict
from lmcache_connect.errors import CertificateError, TLSMismatchError
from lmcache_connect.known_secrets import clean_foreign
from lmcache_connect.streaming import Reaching, certificate_finding

from ..bucket import Bucket
from ..failures import NoSuchBucketError, WrongEndpointError
from ..http_connection import Pool, ResponseHead
from ..object_names import ObjectNames
from ..signing import Signing
from .bucket_rules import read_rules
from .object_trials import ObjectTrials

_SKEW_HURTS: Final = 60.0
_SKEW_FAILS: Final = 900.0
"""S3 refuses a request whose time differs by more than fifteen minutes."""

_ANY: Final = frozenset({200, 204, 301, 307, 400, 401, 403, 404, 405})


class BucketDiagnosis:
    """Looks at one bucket. What it writes, it removes."""

    def __init__(self, bucket: Bucket, signing: Signing, pool: Pool, names: ObjectNames, timeout: float) -> None:
        self._bucket: Final = bucket
        self._signing: Final = signing
        self._pool: Final = pool
        self._names: Final = names
        self._timeout: Final = timeout
        self._steps: Final = Reaching(timeout)

    async def findings(self) -> AsyncIterator[Finding]:
        """Yields what is found. A bucket that cannot be used is the last finding, `UNUSABLE`."""
        async for finding in self._reach():
            yield finding
            if finding.verdict is Verdict.UNUSABLE:
                return
        trials = ObjectTrials(self._bucket, self._names, f"check-{secrets.token_hex(8)}", self._timeout)
        async for finding in trials.findings():
            yield finding
        for finding in await read_rules(self._bucket, self._timeout):
            yield finding

    async def _reach(self) -> AsyncIterator[Finding]:
        try:
            await self._steps.in_time(self._signing.current())
        except StoreError as error:
            advice = "give them by the environment, ?profile=, or ?access_key= and ?secret_key="
            yield Finding("credentials", Verdict.UNUSABLE, error.message, advice)
            return
        except TimeoutError:
            found = f"none within {self._timeout:g} s"
            yield Finding("credentials", Verdict.UNUSABLE, found, "see where they come from: docs/s3.md")
            return
        location = self._signing.location
        try:
            async for finding in self._steps.connect(location.host, location.port):
                yield finding
                if finding.verdict is Verdict.UNUSABLE:
                    return
            async for finding in self._look_at_bucket():
                yield finding
        except TimeoutError:
            yield self._steps.silence()

    async def _look_at_bucket(self) -> AsyncIterator[Finding]:
        steps = self._steps
        asked_at = time.time()
        try:
            head, _ = await steps.in_time(self._bucket.ask("HEAD", "", "ping", allowed=_ANY))
            async with self._pool.acquired() as connection:
                certificate = connection.stream.peer_certificate()
            if certificate is not None:
                yield certificate_finding(certificate, time.time())
            yield _clock(head.headers, (asked_at + time.time()) / 2)
            await steps.in_time(self._bucket.ping())
        except (CertificateError, TLSMismatchError) as error:
            yield Finding("TLS", Verdict.UNUSABLE, error.message, "correct ?endpoint=, or name the ?ca_file=")
        except NoSuchBucketError as error:
            yield Finding("bucket", Verdict.UNUSABLE, error.message, "create it, or correct its name")
        except WrongEndpointError as error:
            yield Finding("region", Verdict.UNUSABLE, error.message)
        except StoreError as error:
            yield Finding("bucket", Verdict.UNUSABLE, error.message, "correct the credentials or the endpoint")
        else:
            yield self._about(head)

    def _about(self, head: ResponseHead) -> Finding:
        server = head.headers.get("server", "")
        region = head.headers.get("x-amz-bucket-region") or self._signing.location.region
        told = [
            self._signing.location.bucket,
            f"region {_plain(region)}" if region else "",
            f"server {_plain(server)}" if server else "",
            "" if self._signing.location.is_tls else "no TLS",
        ]
        return Finding("bucket", Verdict.GOOD, ", ".join(filter(None, told)))


def _clock(headers: Mapping[str, str], now: float) -> Finding:
    try:
        theirs = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return Finding("clock", Verdict.UNKNOWN, "the store does not tell its time")
    skew = theirs - now
    found = f"the store's differs by {abs(skew):.0f} s"
    if abs(skew) >= _SKEW_FAILS:
        return Finding("clock", Verdict.FAILS, f"{found}: it refuses signatures from 15 minutes on", _CLOCK_ADVICE)
    if abs(skew) >= _SKEW_HURTS:
        return Finding("clock", Verdict.HURTS, found, _CLOCK_ADVICE)
    return Finding("clock", Verdict.GOOD, found)


_CLOCK_ADVICE: Final = "set this machine's clock, or the store's: run NTP"


def _plain(text: str) -> str:
    return clean_foreign(text, limit=60)
