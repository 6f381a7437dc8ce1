"""`lmcache-connect serve`: what it says, how it ends, and what it asks for where something is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

COMMAND = [sys.executable, "-m", "lmcache_connect.cli.main", "serve"]


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A process that serves, and the document that it printed."""
    process = subprocess.Popen(
        [*COMMAND, "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            line = process.stdout.readline()
            if not line:
                raise AssertionError(process.communicate()[1])
            lines.append(line)
        yield process, json.loads("".join(lines))
    finally:
        process.kill()
        process.communicate()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *arguments]
    settings = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=settings)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_several_stores_until_it_is_told_to_stop(valkey_url: str, number: signal.Signals) -> None:
    with serving("--url", valkey_url, "--url", "memory://serve") as (process, document):
        assert document["ok"] is True
        assert document["stores"] == [
            {"connector": "redis-1", "store": valkey_url, "health": "ok"},
            {"connector": "memory-1", "store": "memory://serve", "health": "ok"},
        ]
        assert httpx.get(f"{document['address']}/health/ready", trust_env=False).status_code == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        assert out == ""
        assert "Traceback" not in err


def test_a_store_that_is_down_is_served_as_not_ready() -> None:
    with serving("--url", "redis://127.0.0.1:1") as (_, document):
        assert document["stores"][0]["health"] == "failing"
        answer = httpx.get(f"{document['address']}/health/ready", trust_env=False)
        assert answer.status_code == 503


def test_it_serves_on_a_unix_socket_and_metrics_apart(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with serving("--url", "memory://serve", "--unix-socket", str(path), "--metrics-port", "0") as (process, document):
        assert document["address"] == f"unix:{path}"
        assert (
            "lmcache_connect_connector_open"
            in httpx.get(f"{document['metrics_address']}/metrics", trust_env=False).text
        )
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert not path.exists()


def test_it_says_where_it_listens_and_how_the_stores_are() -> None:
    command = [*COMMAND, "--url", "memory://serve"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving   http://127.0.0.1:")
        assert process.stdout.readline().strip() == "memory-1  memory://serve ok"
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_stores_and_settings_may_come_from_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    socket = tmp_path / "api.sock"
    file.write_text(f'url = "memory://from-file"\nretries = 7\n[api]\nunix_socket = "{socket}"\n', encoding="utf-8")
    with serving("--config", str(file), LMCACHE_CONNECT_URL="") as (_, document):
        assert document["address"] == f"unix:{socket}"
        assert [store["store"] for store in document["stores"]] == ["memory://from-file"]
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as client:
            settings = client.get("http://localhost/config").json()["settings"]
        assert settings["retries"] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no store is named"),
        (("--url", "nonsense"), "the scheme is missing"),
        (("--url", "redisx://h"), "no adapter for the scheme 'redisx'"),
        (("--url", "memory://s", "--host", "0.0.0.0"), "set token or token_file"),
        (("--url", "memory://s", "--host", "203.0.113.7", "--token-file", "/dev/null"), "does not hold a token"),
        (("--url", "memory://s", "--unix-socket", "/nowhere/api.sock"), "there is no folder /nowhere"),
        (("--url", "memory://s", "--log-level", "LOUD"), "expected DEBUG, INFO, WARNING or ERROR"),
        (("--url", "memory://s", "--port", "70000"), "port"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments, LMCACHE_CONNECT_URL="")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_occupied_port_is_said(valkey_url: str) -> None:
    port = valkey_url.rpartition(":")[2]
    done = run("--url", "memory://s", "--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot listen on 127.0.0.1:{port}: another program listens there" in done.stderr


def test_a_failure_is_one_document_with_json(valkey_url: str) -> None:
    done = run("--json", "--url", "memory://s", "--port", valkey_url.rpartition(":")[2])
    assert json.loads(done.stdout)["error"]["type"] == "ServerBindError"


@pytest.mark.parametrize("module", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra_it_says_which_one_to_install_and_the_rest_works(module: str) -> None:
    program = f"""
import sys
sys.modules[{module!r}] = None
import lmcache_connect
from lmcache_connect.cli.main import main
sys.argv = ["lmcache-connect", "serve", "--url", "memory://s"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 2
    assert "pip install 'lmcache-connect[api]'" in done.stderr
    assert module in done.stderr
    assert "Traceback" not in done.stderr
