"""A store with a password that must not be seen, and two ways to run the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import pytest

from lmcache_connect.cli.main import main
from lmcache_connect.testing import ValkeyServer
from lmcache_connect.testing.servers.fault_proxy import FaultProxy

CANARY: Final = "canary/p@ss:word"

SMALL: Final = ("--chunks", "1", "--layers", "1")
"""A demo whose largest chunk is 4 MiB and that takes a moment."""


class Ran(NamedTuple):
    """A finished command."""

    code: int
    out: str
    err: str


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LMCACHE_CONNECT_")}
    return {**clean, "COLUMNS": "100", **(more or {})}


def assert_no_secret(*texts: str) -> None:
    for text in texts:
        assert CANARY not in text
        assert quote(CANARY, safe="") not in text
        assert "canary" not in text, "a part of the password is shown"


def run(*arguments: str, env: Mapping[str, str] | None = None) -> Ran:
    """The command in a process of its own."""
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "lmcache_connect.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=environment(env))
    assert_no_secret(done.stdout, done.stderr)
    return Ran(done.returncode, done.stdout, done.stderr)


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets SIGINT end the processes that are started in the block.

    A process inherits it when its parent ignores SIGINT, as every process of `nohup make test &` does. It does not
    inherit a handler, and begins with the default action instead.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """The command in this process."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("LMCACHE_CONNECT_URL", raising=False)

    def call(*arguments: str) -> Ran:
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        code: Any = exit_.value.code
        out, err = capsys.readouterr()
        assert_no_secret(out, err)
        return Ran(code, out, err)

    return call


@pytest.fixture(scope="session")
def locked_server() -> Iterator[ValkeyServer]:
    with ValkeyServer(password=CANARY) as server:
        yield server


@pytest.fixture
def server(locked_server: ValkeyServer) -> ValkeyServer:
    """A real Valkey with `CANARY` for a password; empty."""
    locked_server.flush()
    return locked_server


@pytest.fixture
def proxy(server: ValkeyServer) -> Iterator[FaultProxy]:
    """A proxy between the command and the server."""
    with FaultProxy(server.host, server.port) as proxy:
        yield proxy


def url_of(proxy: FaultProxy, query: str = "") -> str:
    """The server's URL, through the proxy."""
    return f"redis://:{quote(CANARY, safe='')}@{proxy.host}:{proxy.port}{query}"


def key_count(server: ValkeyServer) -> int:
    """The number of keys in the store that do not expire: each is a chunk."""
    with server.client() as client:
        return sum(client.ttl(name) == -1 for name in client.scan_iter())
