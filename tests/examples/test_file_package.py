"""The example package is built, installed and found by its entry point, and passes its own tests from there."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from .installed import ROOT, install, run, run_pytest

SOURCE = ROOT / "examples/lmcache-connect-file"

PROGRAM = """
import asyncio, sys
from lmcache_connect import ConnectorManager

async def main(url, version):
    async with ConnectorManager(url) as manager:
        connector = manager.create_connector()
        found = await connector.get("k")
        print(None if found is None else bytes(found.byte_array[:2]))
        if found is not None:
            found.ref_count_down()
        with await manager.local_cpu_backend.allocate_async((2, 4, 8, 16), "bfloat16") as chunk:
            chunk.byte_array[:2] = version
            await connector.put("k", chunk)
        print(await connector.list(), type(connector.wrapped).__module__)

asyncio.run(main(sys.argv[1], sys.argv[2].encode()))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed."""
    target = tmp_path_factory.mktemp("example") / "site"
    install(SOURCE, target)
    return target


def test_the_command_line_finds_the_installed_adapter(site: Path, tmp_path: Path) -> None:
    listed = json.loads(run([sys.executable, "-m", "lmcache_connect.cli.main", "schemes", "--json"], tmp_path, site))
    (found,) = [entry for entry in listed["schemes"] if entry["scheme"] == "file"]
    assert found["adapter"] == "lmcache_connect_file.adapter:FileConnectorAdapter (lmcache-connect-file)"
    assert found["loads"] is True
    assert found["options"] == ["timeout", "stall_timeout", "errors", "retries", "ttl", "max_bytes", "threads"]


def test_one_process_finds_what_another_has_put(site: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-W", "error", "-c", PROGRAM, f"file://{tmp_path}/store"]
    module = "lmcache_connect_file.connector"
    assert run([*program, "v1"], tmp_path, site).splitlines() == ["None", f"['k'] {module}"]
    assert run([*program, "v2"], tmp_path, site).splitlines() == ["b'v1'", f"['k'] {module}"]


def test_it_passes_some_of_its_own_tests_and_the_rules_of_batches(site: Path, tmp_path: Path) -> None:
    copy_tests(tmp_path)
    some = "batch or full or options or expired or no_key_leads_out"
    outcome = run_pytest(tmp_path, "-k", some, path=[site])
    assert " passed" in outcome
    assert "failed" not in outcome


def copy_tests(folder: Path) -> None:
    shutil.copytree(SOURCE / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SOURCE / "pyproject.toml", folder)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_it_passes_its_own_tests_and_the_conformance_suite(site: Path, tmp_path: Path) -> None:
    copy_tests(tmp_path)
    outcome = run_pytest(tmp_path, path=[site])
    assert " passed" in outcome
    assert "failed" not in outcome
