"""The code of docs/writing-a-connector.md runs, with the outcome that the page shows."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest

from lmcache_connect.testing import ValkeyServer

from .installed import ROOT, run, run_pytest

PAGE: Final = (ROOT / "docs/writing-a-connector.md").read_text()
BLOCK: Final = re.compile(r'^```(\w*)(?: title="(\S+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """The files of the page: for each name, all its blocks, joined."""
    found: dict[str, str] = defaultdict(str)
    for _, name, text in BLOCK.findall(PAGE):
        found[name] += text
    return dict(found)


def write(folder: Path, chapter: str) -> None:
    for name, text in files().items():
        if name.startswith(f"{chapter}/"):
            (folder / name.removeprefix(f"{chapter}/")).write_text(text)


def failures(folder: Path, *only: str) -> set[str]:
    """The tests that fail in a folder, as pytest's summary names them. With `only`, those tests alone run."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--tb=no",
        "--rootdir",
        str(folder),
        *only,
    ]
    done = subprocess.run([*command, *only], cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"
    assert " passed" in done.stdout
    assert "ERROR" not in done.stdout
    return set(re.findall(r"^FAILED \S+", done.stdout, flags=re.MULTILINE))


def test_every_block_says_which_file_it_belongs_to() -> None:
    assert PAGE.count("```") == 2 * len(BLOCK.findall(PAGE))
    assert all(name for _, name, _ in BLOCK.findall(PAGE))


def test_the_first_connector_has_fifty_lines_at_most() -> None:
    assert len(files()["first/my_store.py"].splitlines()) <= 50


def test_the_first_connector_fails_rules_that_the_page_names_and_keeps_others(tmp_path: Path) -> None:
    write(tmp_path, "first")
    named = files()["first/outcome"].splitlines()
    kept = "test_my_store.py::TestMyStore::test_put_replaces_what_was_stored"
    assert failures(tmp_path, kept, *(line.removeprefix("FAILED ") for line in named)) == set(named)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_first_connector_fails_exactly_the_rules_that_the_page_names(tmp_path: Path) -> None:
    write(tmp_path, "first")
    assert failures(tmp_path) == set(files()["first/outcome"].splitlines())


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_careless_threads_fail_the_rules_that_the_page_names(tmp_path: Path) -> None:
    write(tmp_path, "second")
    suite = files()["first/test_my_store.py"].replace("list=True, ", "")
    (tmp_path / "test_my_store.py").write_text(suite)
    certain, seen, *likely = files()["second/outcome"].splitlines()
    assert {certain, seen} <= failures(tmp_path) <= {certain, seen, *likely}


def test_a_connector_comes_in_by_each_way(tmp_path: Path) -> None:
    write(tmp_path, "first")
    assert run([sys.executable, "-W", "error", "ways_in.py"], tmp_path, tmp_path) == files()["first/ways_in.out"]


def test_the_connector_that_tells_its_room_is_diagnosed(tmp_path: Path) -> None:
    write(tmp_path, "first")
    program = (
        "import asyncio\n"
        "from lmcache_connect import ConnectorManager\n"
        "from room_telling import RoomTellingConnector\n"
        "async def main():\n"
        "    async with ConnectorManager('memory://room') as manager:\n"
        "        telling = RoomTellingConnector('room', manager.local_cpu_backend)\n"
        "        async for finding in telling.diagnose(1):\n"
        "            print(finding.verdict.name, finding.found)\n"
        "asyncio.run(main())\n"
    )
    assert run([sys.executable, "-W", "error", "-c", program], tmp_path, tmp_path) == "GOOD 0 bytes\n"


@pytest.mark.skipif(not ValkeyServer.available(), reason="no Valkey for this machine")
def test_the_connector_for_a_server_keeps_the_rules_of_batches_and_cancellations(tmp_path: Path) -> None:
    write(tmp_path, "server")
    assert re.search(
        r"^\d\d passed, .*deselected", run_pytest(tmp_path, "-k", "batch or cancelled"), flags=re.MULTILINE
    )


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.skipif(not ValkeyServer.available(), reason="no Valkey for this machine")
def test_the_connector_for_a_server_keeps_every_rule(tmp_path: Path) -> None:
    write(tmp_path, "server")
    outcome = run_pytest(tmp_path)
    assert re.search(r"^[89]\d passed, 1 skipped", outcome, flags=re.MULTILINE), outcome


@pytest.mark.parametrize("name", [name for name in files() if name.startswith("lmcache-connect-file/")])
def test_the_finished_connector_is_the_example_package(name: str) -> None:
    # That its code runs, and passes the suite, is shown from the installed package.
    assert files()[name] == (ROOT / "examples" / name).read_text()
