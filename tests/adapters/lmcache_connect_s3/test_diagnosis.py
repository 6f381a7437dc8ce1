"""What a connector tells of a bucket: rights, requests that the store lacks, its clock, versions and rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from lmcache_connect import ConnectorManager, LocalCPUBackend
from lmcache_connect.contract import Diagnosable, Finding, Verdict
from lmcache_connect.testing import FaultyS3Server
from lmcache_connect.testing.servers.s3_faults import Do, Header, Refuse, Reply, Request, Stall

TIMEOUT = 1.0


@pytest.fixture
def server() -> Iterator[FaultyS3Server]:
    with FaultyS3Server() as started:
        yield started


def diagnosed(server: FaultyS3Server) -> dict[str, Finding]:
    async def collect() -> list[Finding]:
        with LocalCPUBackend(1 << 20) as backend:
            async with ConnectorManager(server.url("tenant"), None, backend) as manager:
                wrapped = manager.create_connector().wrapped
                assert isinstance(wrapped, Diagnosable)
                return [finding async for finding in wrapped.diagnose(TIMEOUT)]

    return {finding.subject: finding for finding in asyncio.run(collect())}


def deny(matches: Callable[[Request], bool], status: int = 403, code: str = "AccessDenied") -> Do:
    """Refuses the requests that match."""

    def edit(reply: Reply, request: Request) -> None:
        if matches(request):
            Refuse(status, code).edit(reply, request)

    return Do(edit)


def answer(part: str, document: str) -> Do:
    """Answers the request for a part of the bucket's configuration."""

    def edit(reply: Reply, request: Request) -> None:
        if part in request.query:
            reply.body = document.encode()

    return Do(edit)


def test_a_bucket_where_all_is_allowed_is_good_and_left_empty(server: FaultyS3Server) -> None:
    findings = diagnosed(server)
    for subject in (
        "PutObject",
        "GetObject",
        "ranges",
        "missing objects",
        "ListObjectsV2",
        "multipart",
        "DeleteObject",
    ):
        assert findings[subject].verdict is Verdict.GOOD, findings[subject]
    assert findings["AbortMultipartUpload"].verdict is Verdict.GOOD
    assert server.objects == {}


@pytest.mark.parametrize(
    ("method", "matches", "subject", "right"),
    [
        ("PUT", lambda request: bool(request.name), "PutObject", "s3:PutObject"),
        ("GET", lambda request: bool(request.name), "GetObject", "s3:GetObject"),
        ("GET", lambda request: "list-type" in request.query, "ListObjectsV2", "s3:ListBucket"),
        ("POST", lambda request: "uploads" in request.query, "multipart", "s3:PutObject"),
        ("DELETE", lambda request: "uploadId" in request.query, "AbortMultipartUpload", "s3:AbortMultipartUpload"),
        ("DELETE", lambda request: not request.query, "DeleteObject", "s3:DeleteObject"),
    ],
)
def test_a_right_that_is_missing_is_named(
    server: FaultyS3Server, method: str, matches: Callable[[Request], bool], subject: str, right: str
) -> None:
    server.plan(method, deny(matches), times=None)
    finding = diagnosed(server)[subject]
    assert finding.verdict is Verdict.FAILS
    assert right in finding.advice


def test_what_a_store_lacks_is_told_with_what_it_costs(server: FaultyS3Server) -> None:
    server.has_conditional_removal = False
    server.plan("POST", deny(lambda request: "delete" in request.query, 501, "NotImplemented"), times=None)
    findings = diagnosed(server)
    assert findings["DeleteObject If-Match"].verdict is Verdict.NOTE
    assert findings["DeleteObjects"].verdict is Verdict.NOTE
    assert findings["DeleteObject"].verdict is Verdict.GOOD
    assert server.objects == {}


def test_a_store_that_returns_other_data_fails(server: FaultyS3Server) -> None:
    def spoil(reply: Reply, request: Request) -> None:
        reply.body = reply.body.replace(b"check", b"spoil")

    server.plan("GET", Do(spoil), times=None)
    assert diagnosed(server)["GetObject"].verdict is Verdict.FAILS


@pytest.mark.parametrize(
    ("date", "verdict"),
    [("Tue, 01 Jan 2019 00:00:00 GMT", Verdict.FAILS), ("yesterday", Verdict.UNKNOWN)],
)
def test_the_clock_of_the_store_is_compared(server: FaultyS3Server, date: str, verdict: Verdict) -> None:
    server.plan("HEAD", Header("Date", date), times=None)
    assert diagnosed(server)["clock"].verdict is verdict


def test_versions_and_lifecycle_rules_are_told(server: FaultyS3Server) -> None:
    versions = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    rules = (
        "<LifecycleConfiguration><Rule><Status>Enabled</Status><Expiration><Days>7</Days></Expiration>"
        "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation>"
        "</AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>"
    )

    def edit(reply: Reply, request: Request) -> None:
        answer("versioning", versions).edit(reply, request)
        answer("lifecycle", rules).edit(reply, request)

    server.plan("GET", Do(edit), times=None)
    findings = diagnosed(server)
    assert findings["versioning"].verdict is Verdict.HURTS
    assert findings["lifecycle"].verdict is Verdict.GOOD


def test_rules_that_may_not_be_read_are_unknown(server: FaultyS3Server) -> None:
    hidden = deny(lambda request: bool({"versioning", "lifecycle"} & request.query.keys()))
    server.plan("GET", hidden, times=None)
    findings = diagnosed(server)
    assert findings["versioning"].verdict is findings["lifecycle"].verdict is Verdict.UNKNOWN


def test_a_store_that_stands_still_is_left_after_the_timeout(server: FaultyS3Server) -> None:
    server.plan("HEAD", Stall(-1), times=None)
    findings = diagnosed(server)
    assert findings["answer"].verdict is Verdict.UNUSABLE
    assert list(findings) == ["connect", "answer"]
