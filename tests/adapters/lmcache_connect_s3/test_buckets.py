"""Buckets as operators use them, on moto and rclone, and credentials from every source."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import logging
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from lmcache_connect import AuthenticationError, ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.errors import CertificateError, TLSMismatchError
from lmcache_connect.oversight import clear
from lmcache_connect.testing import FaultyS3Server
from lmcache_connect.testing.loop_watch import LoopWatch
from lmcache_connect.testing.servers.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, MotoServer, RcloneServer
from lmcache_connect.testing.servers.s3_faults import Header

from ...testing.conformance.raw_s3 import client_of

CONFIG: Final = ConnectorConfig.load(operation_timeout=5, retries=0)
CANARY: Final = "canary-secret"


@pytest.fixture(autouse=True)
def no_credentials_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def prefix() -> str:
    return f"buckets/{secrets.token_hex(4)}"


async def put(connector: ManagedConnector, *keys: str, nbytes: int = 1000) -> None:
    for key in keys:
        chunk = connector.context.local_cpu_backend.allocate((nbytes,), "uint8")
        assert chunk is not None
        with chunk:
            await connector.put(key, chunk)


@pytest.mark.asyncio
async def test_what_an_operator_asks_for_is_what_the_object_has(
    moto_server: MotoServer, local_cpu_backend: LocalCPUBackend, prefix: str
) -> None:
    url = moto_server.url(
        prefix, storage_class="ONEZONE_IA", sse="aws:kms", sse_kms_key_id="a-key", tags="tenant=one&model=two"
    )
    client = client_of(moto_server)
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, "k")
        await put(connector, "large", nbytes=1 << 20)
    for name in ("k", "large"):
        head = client.head_object(Bucket=BUCKET, Key=f"{prefix}/{name}")
        assert head["StorageClass"] == "ONEZONE_IA"
        assert head["ServerSideEncryption"] == "aws:kms"
        assert head["SSEKMSKeyId"] == "a-key"
        tags = client.get_object_tagging(Bucket=BUCKET, Key=f"{prefix}/{name}")["TagSet"]
        assert sorted((tag["Key"], tag["Value"]) for tag in tags) == [("model", "two"), ("tenant", "one")]


@pytest.mark.asyncio
async def test_multipart_objects_have_it_too_and_are_read_back(
    moto_server: MotoServer, local_cpu_backend: LocalCPUBackend, prefix: str
) -> None:
    url = moto_server.url(prefix, multipart_threshold=5 << 20, part_size=5 << 20, tags="a=b")
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, "k", nbytes=12 << 20)
        got = await connector.get("k")
        assert got is not None
        got.ref_count_down()
    client = client_of(moto_server)
    assert client.head_object(Bucket=BUCKET, Key=f"{prefix}/k")["ETag"].endswith('-3"')
    assert client.get_object_tagging(Bucket=BUCKET, Key=f"{prefix}/k")["TagSet"] == [{"Key": "a", "Value": "b"}]
    assert client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
@pytest.mark.parametrize("io", ["thread", "loop"])
@pytest.mark.asyncio
async def test_a_checksum_of_s3s_own_is_sent_and_checked(
    moto_server: MotoServer, local_cpu_backend: LocalCPUBackend, prefix: str, algorithm: str, io: str
) -> None:
    async with ConnectorManager(
        moto_server.url(prefix, object_checksum=algorithm, io=io), None, local_cpu_backend, CONFIG
    ) as manager:
        connector = manager.create_connector()
        await put(connector, "k", nbytes=100_000)
        got = await connector.get("k")
        assert got is not None
        got.ref_count_down()
    with FaultyS3Server() as server:
        url = server.url(object_checksum=algorithm, io=io, checksum="false")
        async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
            connector = manager.create_connector()
            await put(connector, "k")
            sent = server.headers["k"][f"x-amz-checksum-{algorithm}"]
            server.plan("GET", Header(f"x-amz-checksum-{algorithm}", sent))
            got = await connector.get("k")
            assert got is not None
            got.ref_count_down()
            server.plan("GET", Header(f"x-amz-checksum-{algorithm}", "AAAAAA=="), times=None)
            assert await connector.get("k") is None
            assert connector.statistics()["get"].misses == {"corrupt:object_checksum": 1}


@pytest.mark.asyncio
async def test_a_signed_payload_and_a_requester_who_pays_are_taken(
    rclone_server: RcloneServer, moto_server: MotoServer, local_cpu_backend: LocalCPUBackend, prefix: str
) -> None:
    for server in (rclone_server, moto_server):
        url = server.url(prefix, sign_payload="always", requester_pays="true")
        async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
            connector = manager.create_connector()
            await put(connector, "k", nbytes=2 << 20)
            got = await connector.get("k")
            assert got is not None
            got.ref_count_down()
    with FaultyS3Server() as faulty:
        url = faulty.url(sign_payload="always", requester_pays="true", endpoint=faulty.endpoint)
        async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
            await put(manager.create_connector(), "k")
        headers = faulty.headers["k"]
        assert len(headers["x-amz-content-sha256"]) == 64
        assert headers["x-amz-request-payer"] == "requester"
        assert "x-amz-request-payer" in headers["authorization"]


@pytest.mark.asyncio
async def test_a_wrong_secret_is_refused_by_the_server(
    rclone_server: RcloneServer, local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with ConnectorManager(rclone_server.url(secret_key=CANARY), None, local_cpu_backend, CONFIG) as manager:
            connector = manager.create_connector()
            with pytest.raises(AuthenticationError, match="check the credentials"):
                await connector.get("k")
            assert CANARY not in repr(connector) + repr(manager) + str(connector.wrapped)
    assert CANARY not in caplog.text


@pytest.mark.asyncio
async def test_listings_have_pages_and_batches_are_removed_by_the_thousand(
    moto_server: MotoServer, local_cpu_backend: LocalCPUBackend, prefix: str
) -> None:
    client = client_of(moto_server)
    for number in range(1205):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/key%26{number:04}", Body=b"")
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/not/ours", Body=b"")
    async with ConnectorManager(moto_server.url(prefix), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        assert sorted(await connector.list()) == [f"key&{number:04}" for number in range(1205)]
        assert [name async for name in connector.scan("key&120")] == [f"key&120{digit}" for digit in range(5)]
        found = await clear(connector, "key&")
        assert (found.matched, found.removed, found.is_complete) == (1205, 1205, True)
        assert await connector.list() == []
    assert client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")["KeyCount"] == 1


@pytest.mark.asyncio
async def test_tenants_under_prefixes_of_one_bucket_never_meet(
    rclone_server: RcloneServer, local_cpu_backend: LocalCPUBackend, prefix: str
) -> None:
    async with ConnectorManager(None, None, local_cpu_backend, CONFIG) as manager:
        one, two, outer = (
            manager.create_connector(rclone_server.url(name)) for name in (f"{prefix}/a", f"{prefix}/ab", prefix)
        )
        await put(one, "k")
        assert await two.get("k") is None
        assert await outer.get("a/k") is None
        assert await outer.list() == []
        assert await two.list() == []
        assert await one.list() == ["k"]


@pytest.mark.asyncio
async def test_a_key_that_was_found_may_count_as_there_for_a_while_and_one_that_was_not_never(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    with FaultyS3Server() as server:
        async with ConnectorManager(server.url(exists_cache=30), None, local_cpu_backend, CONFIG) as manager:
            connector = manager.create_connector()
            assert not await connector.exists("k")
            await put(connector, "k")
            asked = len(server.asked("HEAD"))
            assert await connector.exists("k")
            assert len(server.asked("HEAD")) == asked
            assert await connector.remove("k")
            assert not await connector.exists("k")


@pytest.mark.asyncio
async def test_tls_is_verified_whether_a_thread_moves_the_bytes_or_not(
    local_cpu_backend: LocalCPUBackend, prefix: str
) -> None:
    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "lmcache-connect courier"]

    with RcloneServer(tls=True) as server:
        for io in ("loop", "thread"):
            url = server.url(prefix, ca_file=server.ca_file, io=io)
            async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
                before = len(threads())
                connector = manager.create_connector()
                await put(connector, "k", nbytes=3 << 20)
                got = await connector.get("k")
                assert got is not None
                got.ref_count_down()
                assert (len(threads()) > before) is (io == "thread")
        for options, told in (
            ({}, "does not verify against the system's certificate authorities: .*; set ca_file"),
            ({"ca_file": "/nonexistent.pem"}, "the ca_file '/nonexistent.pem' cannot be used: No such file"),
        ):
            async with ConnectorManager(server.url(prefix, **options), None, local_cpu_backend, CONFIG) as manager:
                with pytest.raises(CertificateError, match=told):
                    await manager.create_connector().get("k")


@pytest.mark.asyncio
async def test_a_server_without_tls_behind_an_https_endpoint_is_told_of_at_once(
    local_cpu_backend: LocalCPUBackend, rclone_server: RcloneServer, prefix: str
) -> None:
    url = rclone_server.url(prefix, endpoint=rclone_server.endpoint.replace("http:", "https:"))
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        with pytest.raises(TLSMismatchError, match="does not speak TLS"):
            await manager.create_connector().get("k")


# ------------------------------------------------------------------------------------------------------- credentials


def used(server: FaultyS3Server) -> set[tuple[str, str | None]]:
    """Access keys, and session tokens, of the requests."""
    return {
        (
            request.headers["authorization"].split("Credential=")[1].split("/")[0],
            request.headers.get("x-amz-security-token"),
        )
        for request in server.requests
    }


@pytest.mark.asyncio
async def test_credentials_come_from_the_environment_with_their_session_token(
    monkeypatch: pytest.MonkeyPatch, local_cpu_backend: LocalCPUBackend
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "env-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "env-token")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    with FaultyS3Server() as server:
        url = server.url(access_key=None, secret_key=None, region=None)
        async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
            assert await manager.create_connector().get("k") is None
        assert used(server) == {("env-key", "env-token")}
        assert "/eu-north-1/s3/" in server.requests[0].headers["authorization"]


@pytest.mark.asyncio
async def test_credentials_come_from_a_profile(tmp_path: Path, local_cpu_backend: LocalCPUBackend) -> None:
    (tmp_path / "credentials").write_text(f"[kv]\naws_access_key_id = profile-key\naws_secret_access_key = {CANARY}\n")
    with FaultyS3Server() as server:
        url = server.url(access_key=None, secret_key=None, profile="kv")
        async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
            assert await manager.create_connector().get("k") is None
        assert used(server) == {("profile-key", None)}
        async with ConnectorManager(
            url.replace("profile=kv", "profile=nobody"), None, local_cpu_backend, CONFIG
        ) as manager:
            with pytest.raises(AuthenticationError, match="ProfileNotFound"):
                await manager.create_connector().get("k")


@contextlib.contextmanager
def container(lifetime: float) -> Iterator[tuple[str, list[int]]]:
    """The credentials endpoint of a container; its address, and how often it was asked."""
    asked: list[int] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(1)
            expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=lifetime)
            body = json.dumps(
                {
                    "AccessKeyId": f"container-key-{len(asked)}",
                    "SecretAccessKey": CANARY,
                    "Token": f"token-{len(asked)}",
                    "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http_server.server_port}/credentials", asked
        finally:
            http_server.shutdown()
            thread.join()


@pytest.mark.asyncio
async def test_temporary_credentials_are_renewed_before_they_expire_and_the_loop_goes_on(
    monkeypatch: pytest.MonkeyPatch, local_cpu_backend: LocalCPUBackend
) -> None:
    with FaultyS3Server() as server, container(lifetime=700) as (address, asked):  # due, and good for a while
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", address)
        url = server.url(access_key=None, secret_key=None)
        async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
            connector = manager.create_connector()
            async with LoopWatch() as watch:
                assert await connector.get("k") is None
            assert watch.longest < 0.5
            before = len(asked)
            while len(asked) < before + 2:  # each get has one that is due renewed, behind its back
                assert await connector.get("k") is None
                await asyncio.sleep(0)
            assert len(used(server)) > 1


@pytest.mark.parametrize("io", ["thread", "loop"])
@pytest.mark.asyncio
async def test_credentials_that_the_store_calls_expired_are_renewed_once(
    monkeypatch: pytest.MonkeyPatch, local_cpu_backend: LocalCPUBackend, io: str
) -> None:
    with FaultyS3Server() as server, container(lifetime=7200) as (address, asked):
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", address)
        url = server.url(access_key=None, secret_key=None, io=io)
        async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
            connector = manager.create_connector()
            await put(connector, "k", nbytes=2 << 20)
            server.expired.add("container-key-1")
            got = await connector.get("k")
            assert got is not None
            got.ref_count_down()
            assert len(asked) == 2
            server.expired.add("container-key-2")
            assert await connector.exists("k")
            server.expired |= {f"container-key-{number}" for number in range(20)}
            with pytest.raises(AuthenticationError, match="ExpiredToken"):
                await connector.get("k")


@pytest.mark.asyncio
async def test_without_credentials_it_says_where_they_are_looked_for(local_cpu_backend: LocalCPUBackend) -> None:
    with FaultyS3Server() as server:
        async with ConnectorManager(
            server.url(access_key=None, secret_key=None), None, local_cpu_backend, CONFIG
        ) as manager:
            with pytest.raises(AuthenticationError, match="AWS_ACCESS_KEY_ID"):
                await manager.create_connector().get("k")
        async with ConnectorManager(
            server.url(access_key=None, secret_key=None, anonymous="true"), None, local_cpu_backend, CONFIG
        ) as manager:
            assert await manager.create_connector().get("k") is None
        assert "authorization" not in server.requests[-1].headers


@pytest.mark.asyncio
async def test_an_express_bucket_is_used_with_sessions_that_are_made_for_it(
    local_cpu_backend: LocalCPUBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmcache_connect_s3 import adapter as module
    from lmcache_connect_s3.location import Location

    with FaultyS3Server() as server:

        def here(*_: Any) -> Location:
            host = "express.example"
            base = f"/{BUCKET}/"
            return Location(BUCKET, "", "us-west-2", "127.0.0.1", server.port, False, host, base, is_express=True)

        monkeypatch.setattr(module, "locate", here)  # AWS alone has such buckets: the place, not what is done there
        url = f"s3://bkt?access_key={ACCESS_KEY}&secret_key={SECRET_KEY}"
        async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
            connector = manager.create_connector()
            await put(connector, "k")
            assert await connector.exists("k")
            sessions = [request for request in server.requests if "session" in request.query]
            assert len(sessions) == 1
            assert sessions[0].headers["x-amz-create-session-mode"] == "ReadWrite"
            assert f"Credential={ACCESS_KEY}/" in sessions[0].headers["authorization"]
            assert "/us-west-2/s3express/" in sessions[0].headers["authorization"]
            stored = server.headers["k"]
            assert stored["x-amz-s3session-token"] == "a-session-token"
            assert "Credential=session-key/" in stored["authorization"]
            server.expired.add("session-key")
            server.session_key = "another-session-key"
            assert await connector.exists("k")
            assert "Credential=another-session-key/" in server.requests[-1].headers["authorization"]
