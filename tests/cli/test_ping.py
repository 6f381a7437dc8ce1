"""`lmcache-connect ping`, against a real Valkey."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest

from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer
from lmcache_connect.testing.servers.process import unused_port

from .conftest import CANARY, Ran, key_count, run, url_of

HIDDEN = quote(CANARY, safe="")


def test_a_store_that_answers(server: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke("ping", "--url", server.url())
    assert ran.code == 0
    assert ran.err == ""
    assert ran.out.startswith(f"redis://:***@127.0.0.1:{server.port} answers: round trip ")
    assert " ms, connected in " in ran.out
    assert key_count(server) == 0


def test_json_is_one_document(server: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke("ping", "--json", "--url", server.url())
    found = json.loads(ran.out)
    assert ran.code == 0
    assert ran.err == ""
    assert found["ok"] is True
    assert found["operation"] == "ping"
    assert 0 < found["round_trip_ms"] < 1000
    assert 0 < found["connect_ms"] < 5000


def test_servers_of_a_ring_that_do_not_answer_are_named_besides_those_that_do(
    server: ValkeyServer, invoke: Callable[..., Ran]
) -> None:
    gone = unused_port()
    url = server.url().replace("redis://", "redis-ring://") + f",127.0.0.1:{gone}"
    ran = invoke("ping", "--url", url)
    assert ran.code == 0
    first, second = ran.out.splitlines()
    assert " answers: round trip " in first
    assert second.startswith(f"redis://127.0.0.1:{gone} does not answer: cannot connect")
    found = json.loads(invoke("ping", "--json", "--url", url).out)
    assert [(one["server"], one["error"]) for one in found["silent"]] == [
        (f"redis://127.0.0.1:{gone}", "StoreUnavailableError")
    ]


def test_the_url_may_come_from_the_environment(server: ValkeyServer) -> None:
    ran = run("ping", env={"LMCACHE_CONNECT_URL": server.url("valkey")})
    assert ran.code == 0
    assert ran.out.startswith("valkey://:***@")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"redis://:{HIDDEN}@127.0.0.1:{{port}}", "Connection refused"),
        (f"redis://:{HIDDEN}@127.0.0.1:0", "the port is 0"),
        (f"redis://:{HIDDEN}@127.0.0.1:x", "port"),
        (f"redis://:{CANARY}@127.0.0.1", "credentials"),
        (f"redis://:{HIDDEN}@127.0.0.1/db", "not a database number"),
        (f"redis://:{HIDDEN}@127.0.0.1?colour=red", "unknown option 'colour'"),
        (f"redis://:{HIDDEN}@127.0.0.1?pool_size=none", "'none'"),
        (f"redis://127.0.0.1?password={HIDDEN}", "unknown option 'password'"),
        (f"redisx://:{HIDDEN}@127.0.0.1", "no adapter for the scheme 'redisx'"),
        (f"somebody:{HIDDEN}@127.0.0.1", "the scheme is missing"),
        (f"redis://:{HIDDEN}%zz@127.0.0.1", "hexadecimal"),
        (f"redis://:{HIDDEN}@no-such-host.invalid", "no-such-host.invalid"),
        (f"unix://:{HIDDEN}@/no/such/socket", "/no/such/socket"),
        ("", "the scheme is missing"),
    ],
)
def test_what_cannot_be_reached_is_one_line_without_the_password(
    invoke: Callable[..., Ran], url: str, said: str
) -> None:
    url = url.format(port=unused_port())
    for command in (("ping", "--timeout", "2"), ("demo", "--chunks", "1", "--layers", "1")):
        ran = invoke(*command, "--url", url)
        assert ran.code == 2
        assert ran.out == ""
        assert ran.err.count("\n") == 1
        assert ran.err.startswith("error: ")
        assert said in ran.err


def test_an_error_is_a_document_as_well(invoke: Callable[..., Ran]) -> None:
    ran = invoke("ping", "--json", "--url", f"redis://:{HIDDEN}@127.0.0.1:{unused_port()}")
    found = json.loads(ran.out)
    assert ran.code == 2
    assert found["ok"] is False
    assert found["error"]["type"] == "StoreUnavailableError"
    assert "Connection refused" in found["error"]["message"]
    assert "Connection refused" in ran.err


def test_a_wrong_password_is_named_and_not_shown(server: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke("ping", "--url", f"redis://:{HIDDEN}-wrong@127.0.0.1:{server.port}")
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "password" in ran.err.lower()


@pytest.mark.parametrize("query", ["", "?timeout=60"])
def test_a_store_that_hangs_costs_the_timeout_and_no_more(
    proxy: FaultProxy, invoke: Callable[..., Ran], query: str
) -> None:
    proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT))
    started = time.monotonic()
    ran = invoke("ping", "--timeout", "0.3", "--url", url_of(proxy, query))
    assert ran.code == 2
    assert "0.300 s" in ran.err
    assert 0.3 <= time.monotonic() - started < 2


def test_a_setting_of_the_environment_that_is_wrong_is_named(
    invoke: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_RETRIES", "often")
    ran = invoke("ping", "--url", "memory://ping")
    assert ran.code == 2
    assert "'retries'" in ran.err


def test_a_store_without_ping_is_asked_for_a_key(invoke: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    from lmcache_connect import RemoteConnector
    from lmcache_reference_connectors.memory import MemoryConnector

    monkeypatch.setattr(MemoryConnector, "ping", RemoteConnector.ping)
    ran = invoke("ping", "--url", "memory://ping")
    assert ran.code == 0
    assert "(exists)" in ran.out
