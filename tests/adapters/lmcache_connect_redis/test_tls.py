"""TLS with a real server: whose certificate is refused and why, which end speaks no TLS, and what a thread moves."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from lmcache_connect import ChunkMemory, ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.errors import (
    CertificateError,
    StoreError,
    StoreStalledError,
    StoreUnavailableError,
    TLSMismatchError,
)
from lmcache_connect.testing import Fault, FaultKind, FaultProxy, ValkeyServer
from lmcache_connect.testing.servers.redis import RedisServer

from .chunks import chunk, holds

pytestmark = [
    pytest.mark.tls,
    pytest.mark.skipif(not RedisServer.available(), reason="no redis-server with TLS is installed"),
]

MIB = 1 << 20
CONFIG = ConnectorConfig.load(operation_timeout=20, max_local_cpu_bytes=128 * MIB)
"""With retries, which a permanent error must not use up."""

AUTHORITY = trustme.CA()
ANOTHER = trustme.CA()
NOW = datetime.now(UTC)
PAST = NOW - timedelta(days=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the tests' servers and clients show and trust."""
    folder = tmp_path_factory.mktemp("certificates")
    AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
    ANOTHER.cert_pem.write_to_path(folder / "another.pem")
    issued = {
        "server.pem": AUTHORITY.issue_cert("127.0.0.1", "localhost"),
        "expired.pem": AUTHORITY.issue_cert("127.0.0.1", not_before=PAST - timedelta(days=9), not_after=PAST),
        "early.pem": AUTHORITY.issue_cert("127.0.0.1", not_before=NOW + timedelta(days=9)),
        "elsewhere.pem": AUTHORITY.issue_cert("elsewhere.example"),
        "client.pem": AUTHORITY.issue_cert("client"),
        "old-client.pem": AUTHORITY.issue_cert("client", not_before=PAST - timedelta(days=9), not_after=PAST),
        "foreign-client.pem": ANOTHER.issue_cert("client"),
    }
    for name, certificate in issued.items():
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / name)
    return folder


@contextmanager
def serving(files: Path, **config: str) -> Iterator[RedisServer]:
    certificate = str(files / "server.pem")
    given = {
        "tls-ca-cert-file": str(files / "ca.pem"),
        "tls-cert-file": certificate,
        "tls-key-file": certificate,
        **{name.replace("_", "-"): value for name, value in config.items()},
    }
    with RedisServer(tls=True, config=given) as server:
        yield server


@pytest.fixture(scope="module")
def server(files: Path) -> Iterator[RedisServer]:
    with serving(files) as running:
        yield running


@pytest.fixture(scope="module", params=["TLSv1.2", "TLSv1.3"])
def strict_server(request: pytest.FixtureRequest, files: Path) -> Iterator[RedisServer]:
    """A server that lets only clients with a certificate in."""
    with serving(files, tls_auth_clients="yes", tls_protocols=request.param) as running:
        yield running


@dataclass
class Client:
    """A connector, and the memory of its chunks."""

    connector: ManagedConnector
    memory: ChunkMemory


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Client]:
    async with ConnectorManager(url, config=CONFIG) as manager:
        yield Client(manager.create_connector(), manager.local_cpu_backend)


async def refusal(made: Client, kind: type[StoreError] = CertificateError, seconds: float = 2.0) -> str:
    """What a get is told, which ends in time and is not repeated."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        await made.connector.get("k")
    assert type(caught.value) is kind
    assert time.monotonic() - began < seconds
    return str(caught.value)


async def works(made: Client) -> None:
    with chunk(made.memory, "k", 2 * MIB) as obj:
        await made.connector.put("k", obj)
    assert holds(await made.connector.get("k"), "k")


# ------------------------------------------------------------------------------------------------- certificates


@pytest.mark.asyncio
async def test_an_unknown_authority_is_told_and_the_right_one_is_used_when_the_file_is_replaced(
    server: RedisServer, files: Path, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    shutil.copy(files / "another.pem", trusted)
    async with client(server.url("rediss", options={"ca_file": str(trusted)})) as made:
        said = await refusal(made)
        assert f"does not verify against {trusted}: self-signed certificate in certificate chain; set ca_file" in said
        trusted.write_text("nothing\n")
        assert "cannot be used" in await refusal(made)
        shutil.copy(files / "ca.pem", trusted)
        await works(made)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("certificate", "told"),
    [
        ("expired.pem", "certificate has expired; replace the server's certificate, or check this machine's clock"),
        ("early.pem", "certificate is not yet valid; check this machine's clock"),
        ("elsewhere.pem", "it is not for '127.0.0.1': use a name that it has as the host, or as server_name"),
    ],
)
async def test_a_certificate_that_does_not_hold_is_told_and_another_one_is_taken_without_a_restart(
    files: Path, certificate: str, told: str
) -> None:
    bad, good = str(files / certificate), str(files / "server.pem")
    with serving(files, tls_cert_file=bad, tls_key_file=bad) as server:
        async with client(server.url("rediss", options={"ca_file": str(files / "ca.pem")})) as made:
            assert told in await refusal(made)
            with server.client() as operator:
                operator.execute_command("CONFIG", "SET", "tls-cert-file", good, "tls-key-file", good)
            await works(made)


@pytest.mark.asyncio
async def test_the_name_that_the_certificate_must_have_may_be_given(server: RedisServer, files: Path) -> None:
    options = f"ca_file={files / 'ca.pem'}"
    async with client(f"rediss://localhost:{server.tls_port}?{options}") as made:
        await works(made)
    async with client(f"rediss://127.0.0.1:{server.tls_port}?{options}&server_name=localhost") as made:
        await works(made)
    async with client(f"rediss://127.0.0.1:{server.tls_port}?{options}&server_name=localhost.localdomain") as made:
        assert "it is not for 'localhost.localdomain'" in await refusal(made)


@pytest.mark.asyncio
async def test_a_missing_client_certificate_is_told_and_one_that_is_put_there_is_used(
    strict_server: RedisServer, files: Path, tmp_path: Path
) -> None:
    ca_file = str(files / "ca.pem")
    async with client(strict_server.url("rediss", options={"ca_file": ca_file})) as made:
        for _ in range(5):  # the alert and the end of the connection come in either order
            said = await refusal(made)
            assert "requires a client certificate" in said
            assert "set cert_file and key_file" in said
    mine = tmp_path / "client.pem"
    options = {"ca_file": ca_file, "cert_file": str(mine)}
    async with client(strict_server.url("rediss", options=options)) as made:
        for name, told in [
            ("foreign-client.pem", "refuses this client's certificate (unknown_ca); check that cert_file was issued"),
            ("old-client.pem", "refuses this client's certificate (certificate_expired); replace the one in cert_file"),
        ]:
            shutil.copy(files / name, mine)
            assert told in await refusal(made)
        shutil.copy(files / "client.pem", mine)
        await works(made)


@pytest.mark.asyncio
async def test_ends_without_a_protocol_version_in_common_are_told_of_it(files: Path) -> None:
    with serving(files, tls_protocols="TLSv1.1") as server:
        async with client(server.url("rediss", options={"ca_file": str(files / "ca.pem")})) as made:
            assert "have no TLS version and cipher in common" in await refusal(made, TLSMismatchError)


# ----------------------------------------------------------------------------------------- an end without TLS


@pytest.mark.asyncio
@pytest.mark.parametrize("product", [RedisServer, ValkeyServer])
async def test_a_server_without_tls_is_told_of_within_a_second_and_not_at_the_deadline(
    product: type[RedisServer | ValkeyServer],
) -> None:
    with product(password="s3cret") as plain:
        async with client(f"rediss://:s3cret@127.0.0.1:{plain.port}") as made:
            for _ in range(2):
                said = await refusal(made, TLSMismatchError, seconds=1.5)
                assert "the server speaks no TLS on this port; use its TLS port, or a scheme without TLS" in said


@pytest.mark.asyncio
@pytest.mark.parametrize("login", ["", ":s3cret@", "user:s3cret@"])
async def test_a_server_that_speaks_tls_is_told_of_where_the_url_does_not_say_so(
    server: RedisServer, login: str
) -> None:
    async with client(f"redis://{login}127.0.0.1:{server.tls_port}") as made:
        for _ in range(2):
            said = await refusal(made, TLSMismatchError, seconds=1.5)
            assert "the server speaks TLS on this port; use its port without TLS, or a scheme with TLS" in said


@pytest.mark.asyncio
async def test_sentinels_with_tls_or_without_are_told_of_and_by_which_option_to_say_so(server: RedisServer) -> None:
    """It is told before anybody finds out that a data node answers there."""
    for url, said in (
        (f"rediss-sentinel://127.0.0.1:{server.port}/kv", "speaks no TLS"),
        (f"redis-sentinel://127.0.0.1:{server.tls_port}/kv", "speaks TLS"),
        (f"redis-sentinel://127.0.0.1:{server.port}/kv?sentinel_tls=true", "speaks no TLS"),
    ):
        async with client(url) as made:
            error = await refusal(made, TLSMismatchError, seconds=1.5)
            assert f"the server {said} on this port" in error
            assert "?sentinel_tls=" in error


@pytest.mark.asyncio
async def test_a_server_that_answers_a_wrong_beginning_with_silence_is_asked_in_the_other_way(files: Path) -> None:
    """Some servers with TLS keep a connection that begins with something else, for many seconds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "server.pem")
    kept: list[socket.socket] = []

    def serve(listening: socket.socket) -> None:
        try:
            while True:
                sock, _ = listening.accept()
                kept.append(sock)
                if sock.recv(1, socket.MSG_PEEK) == b"\x16":
                    kept.append(context.wrap_socket(sock, server_side=True))
        except OSError:
            pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            async with client(f"redis://127.0.0.1:{listening.getsockname()[1]}") as made:
                assert "the server speaks TLS on this port" in await refusal(made, TLSMismatchError, seconds=1.5)
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for sock in kept:
                sock.close()


@pytest.mark.asyncio
async def test_a_server_that_was_reached_and_is_silent_now_is_not_asked_in_another_way(
    server: RedisServer, files: Path
) -> None:
    with FaultProxy(server.host, server.tls_port) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}?ca_file={files / 'ca.pem'}&stall_timeout=0.7&retries=0"
        async with client(url) as made:
            await works(made)
            proxy.arm(Fault(FaultKind.STALL))
            for opened in (0, 1):  # the first closes the connection that there was
                before = proxy.connections
                with pytest.raises(StoreStalledError):
                    await made.connector.get("k")
                assert proxy.connections - before == opened
            proxy.disarm()


@pytest.mark.asyncio
async def test_a_server_that_is_down_is_neither(server: RedisServer, files: Path) -> None:
    with serving(files) as gone:
        urls = (gone.url("redis", options={"retries": "0"}), gone.url("rediss", options={"retries": "0"}))
    for url in urls:
        async with client(url) as made:
            assert "cannot connect to" in await refusal(made, StoreUnavailableError)


# ----------------------------------------------------------------------------------------------- what is moved


@pytest_asyncio.fixture(params=["auto", "thread", "loop"])
async def made(request: pytest.FixtureRequest, server: RedisServer, files: Path) -> AsyncIterator[Client]:
    server.flush()
    async with client(server.url("rediss", options={"ca_file": str(files / "ca.pem"), "io": request.param})) as opened:
        yield opened


@pytest.mark.asyncio
async def test_chunks_of_every_size_come_back_as_they_were_put_whether_a_thread_moves_them_or_not(
    made: Client,
) -> None:
    sizes = (1, 100, 16_000, 16_384, 16_385, 100_000, MIB - 1, MIB, 5 * MIB + 7, 24 * MIB)
    for _ in range(2):  # the second time over connections that threads have handed back
        for nbytes in sizes:
            with chunk(made.memory, f"k{nbytes}", nbytes) as obj:
                await made.connector.put(f"k{nbytes}", obj)
            assert holds(await made.connector.get(f"k{nbytes}"), f"k{nbytes}")
    keys = [f"k{nbytes}" for nbytes in sizes]
    assert all(await made.connector.batched_exists(keys))
    found = await made.connector.batched_get(keys)
    assert [holds(obj, key) for obj, key in zip(found, keys, strict=True)] == [True] * len(keys)


@pytest.mark.asyncio
async def test_large_and_small_calls_at_the_same_time_get_their_own_answers(made: Client) -> None:
    async def turn(key: str, nbytes: int) -> None:
        for _ in range(4):
            with chunk(made.memory, key, nbytes) as obj:
                await made.connector.put(key, obj)
            assert holds(await made.connector.get(key), key)
            assert await made.connector.exists(key)

    await asyncio.gather(*(turn(f"k{number}", 100 * (12**number) + number) for number in range(5)))


def test_blocking_callers_have_their_own_connection_over_tls(server: RedisServer, files: Path) -> None:
    server.flush()
    with LocalCPUBackend(8 * MIB) as memory:
        url = server.url("rediss", options={"ca_file": str(files / "ca.pem")})
        with ConnectorManager(url, local_cpu_backend=memory, config=CONFIG) as manager:
            made = manager.create_connector()
            with chunk(memory, "k", 100_000) as obj:
                _until(lambda: made.sync.put("k", obj), lambda: made.metrics.in_threads("put").calls > 3)
            _until(lambda: made.sync.exists("k"), lambda: made.metrics.in_threads("exists").calls > 3)
            for _ in range(5):
                assert holds(made.sync.get("k"), "k")
            assert made.metrics.in_threads("get").calls


def _until(call: Callable[[], object], is_done: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not is_done():
        assert time.monotonic() < ends
        call()
