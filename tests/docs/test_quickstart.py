"""Every block of docs/quickstart.md runs as it stands, in order, and prints what the page says."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import io
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from lmcache_connect.testing import ValkeyServer

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs/quickstart.md").read_text()
FENCE: Final = re.compile(r'^```(\w+)(?: title="(\S+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
BLOCKS: Final = FENCE.findall(PAGE)
SESSION: Final = [text for language, name, text in BLOCKS if language == "python" and not name]
FILES: Final = {name: text for _, name, text in BLOCKS if name}
URL: Final = "redis://localhost:6379"


def printed(block: str) -> str:
    """What a block prints, as the comments behind its calls of `print` say it."""
    return "".join(f"{line}\n" for line in re.findall(r"^ *print\(.*\)  # (.*)$", block, flags=re.MULTILINE))


def environment(url: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("LMCACHE_CONNECT")} | {
        "LMCACHE_CONNECT_URL": url
    }


def test_every_block_of_the_page_is_run() -> None:
    assert PAGE.count("```") == 2 * len(BLOCKS)
    assert set(FILES) == {"connect.toml", "settings.sh", "settings.py", "app.py", "test_app.py"}
    assert len(SESSION) + len(FILES) == len(BLOCKS)


def test_the_session_can_be_pasted_at_a_prompt() -> None:
    """A compound statement ends there with an empty line, and has none inside."""
    for block in SESSION:
        for before, line in pairwise(block.splitlines()):
            if re.match(r"\S", line) and not re.match(r"(?:else|elif|except|finally)\b", line):
                assert not before.startswith(" "), line
            assert before or not line.startswith(" "), line


@pytest.mark.asyncio
async def test_the_session_runs_as_it_stands_and_prints_what_the_page_says(valkey_url: str) -> None:
    names: dict[str, Any] = {}
    try:
        for block in SESSION:
            if "import torch" in block and importlib.util.find_spec("torch") is None:
                continue
            code = compile(block.replace(URL, valkey_url), block, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                running = eval(code, names)
                if inspect.isawaitable(running):
                    await running
            assert out.getvalue() == printed(block), block
    finally:
        await names["manager"].close()  # the last block does, where all went well


def test_the_settings_are_read_in_the_order_that_the_page_says(tmp_path: Path) -> None:
    for name in ("connect.toml", "settings.sh", "settings.py"):
        (tmp_path / name).write_text(FILES[name])
    left = environment("")
    del left["LMCACHE_CONNECT_URL"]
    done = subprocess.run(
        ["sh", "-c", f". ./settings.sh; exec {sys.executable} -W error settings.py"],
        cwd=tmp_path,
        env=left,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.stderr) == (printed(FILES["settings.py"]), "")


def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    for name in ("app.py", "test_app.py"):
        (tmp_path / name).write_text(FILES[name])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        "test_app.py",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(URL), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


class Application:
    """The page's application, served by uvicorn with two workers."""

    def __init__(self, address: str) -> None:
        self.address: Final = address

    def ask(self, path: str, body: str | None = None) -> tuple[int, bytes]:
        data = None if body is None else body.encode()
        request = urllib.request.Request(f"{self.address}{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()


@pytest.fixture
def dying_server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def application(tmp_path: Path, dying_server: ValkeyServer) -> Iterator[Application]:
    (tmp_path / "app.py").write_text(FILES["app.py"])
    command = [sys.executable, "-m", "uvicorn", "app:app", "--workers", "2", "--port", "0"]
    log = tmp_path / "log"
    with (
        log.open("w") as writing,
        subprocess.Popen(
            command, cwd=tmp_path, env=environment(dying_server.url()), stdout=writing, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            for _ in range(600):
                if log.read_text().count("Application startup complete") == 2:
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pytest.fail(f"it ended with {process.wait(0.05)}: {log.read_text()}")
            (address,) = re.findall(r"running on (http://\S+)", log.read_text())
            yield Application(address)
        finally:
            process.terminate()
            process.wait(20)
    assert "Traceback" not in log.read_text()


def test_two_workers_compute_a_prompt_once_and_say_so_when_the_store_is_gone(
    application: Application, dying_server: ValkeyServer
) -> None:
    status, first = application.ask("/prefill", '{"text": "hello"}')
    assert status == 200
    assert b'"hit":false' in first
    for _ in range(8):  # whichever worker answers
        assert b'"hit":true' in application.ask("/prefill", '{"text": "hello"}')[1]
    key = first.split(b'"key":"')[1].split(b'"')[0].decode()
    assert len(application.ask(f"/chunks/{key}")[1]) == 4 << 20
    status, text = application.ask("/chunks/absent")
    assert status == 404
    assert b"no chunk was found under the key 'absent'" in text
    dying_server.kill()
    status, text = application.ask(f"/chunks/{key}")
    assert status == 503
    assert b"redis://" in text
