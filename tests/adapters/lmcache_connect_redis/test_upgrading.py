"""Release 0.1, from a wheel built from the history, and this release share a store: neither disturbs the other."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

from lmcache_connect import ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.oversight import clear
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ValkeyServer

from .chunks import chunk, holds

ROOT: Final = Path(__file__).parents[3]
RELEASE: Final = "cfb976fce912"
"""The last commit of release 0.1."""

SIZES: Final = {"small": 4096, "large": 9 << 20}

OLD: Final = """
import asyncio, json, sys
from lmcache_connect import ConnectorManager
import lmcache_connect

async def main(url, what):
    async with ConnectorManager(url) as manager:
        connector, backend = manager.create_connector(), manager.local_cpu_backend
        sizes = {"small": 4096, "large": 9 << 20}
        if what == "put":
            for key, nbytes in sizes.items():
                obj = backend.allocate((nbytes,), "uint8")
                obj.byte_array[:] = b"\\x07" * nbytes
                await connector.put(key, obj)
                obj.ref_count_down()
        found = {}
        for key in sizes:
            obj = await connector.get(key)
            found[key] = None if obj is None else bytes(obj.byte_array) == b"\\x07" * sizes[key]
            if obj is not None:
                obj.ref_count_down()
        found["exists"] = await connector.batched_exists(list(sizes))
        found["list"] = sorted(await connector.list())
        if what == "remove":
            found["removed"] = [await connector.remove(key) for key in sizes]
        print(json.dumps(found))

asyncio.run(main(*sys.argv[1:]))
"""

Old = Callable[[ValkeyServer, str], dict[str, object]]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Old:
    """Runs release 0.1 on a server. It is installed into a folder of its own, beside this environment's packages."""
    there = subprocess.run(
        ["git", "cat-file", "-e", f"{RELEASE}^{{commit}}"], cwd=ROOT, capture_output=True, check=False
    )
    if there.returncode:
        pytest.skip("the history does not reach back to release 0.1")
    folder = tmp_path_factory.mktemp("release-0.1")
    archive = subprocess.run(["git", "archive", RELEASE], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(folder / "source", filter="data")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder / "wheel", folder / "source"], check=True, timeout=120)
    [wheel] = (folder / "wheel").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, timeout=120)
    if unmet := unmet_by_this_environment(folder / "site"):
        pytest.skip(f"release 0.1 needs {unmet}, which this environment has not")

    def run(server: ValkeyServer, what: str) -> dict[str, object]:
        import json

        done = subprocess.run(
            [sys.executable, "-c", OLD, server.url(), what],
            env={**os.environ, "PYTHONPATH": str(folder / "site")},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    return run


def unmet_by_this_environment(site: Path) -> str:
    """What the release that is installed in `site` needs, and what is installed here does not meet."""
    [release] = importlib.metadata.distributions(name="lmcache-connect", path=[str(site)])
    needs = map(Requirement, release.requires or ())
    return ", ".join(
        str(need)
        for need in needs
        if need.marker is None and not need.specifier.contains(importlib.metadata.version(need.name), prereleases=True)
    )


async def put_all(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    for key, nbytes in SIZES.items():
        with chunk(backend, key, nbytes) as obj:
            await connector.put(key, obj)


def names(server: ValkeyServer) -> set[str]:
    with server.client() as client:
        return {name.decode() for name in client.keys("*")}


@pytest.mark.asyncio
async def test_release_0_1_and_this_one_neither_read_nor_list_nor_remove_each_others_records(
    old: Old, valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    valkey_server.flush()
    there = {"small": True, "large": True, "exists": [True, True], "list": ["large", "small"]}
    assert old(valkey_server, "put") == there
    outdated = names(valkey_server)
    async with ConnectorManager(valkey_server.url(), local_cpu_backend=local_cpu_backend) as manager:
        connector = manager.create_connector()
        assert await connector.batched_get(list(SIZES)) == [None, None]
        assert await connector.batched_exists(list(SIZES)) == [False, False]
        assert await connector.list() == []
        assert await connector.batched_remove(list(SIZES)) == [True, True]
        assert names(valkey_server) == outdated
        await put_all(connector, local_cpu_backend)
        assert old(valkey_server, "look") == there
        assert old(valkey_server, "remove") == {**there, "removed": [True, True]}
        assert names(valkey_server) == set(chunk_names("", list(SIZES)))
        assert old(valkey_server, "look") == {"small": None, "large": None, "exists": [False, False], "list": []}
        for key in SIZES:
            assert holds(await connector.get(key), key)


@pytest.mark.asyncio
async def test_clearing_removes_what_release_0_1_has_stored_and_nothing_of_other_programs(
    old: Old, valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    valkey_server.flush()
    old(valkey_server, "put")
    outdated = names(valkey_server)
    assert len(outdated) == 7, "a chunk, a head and five parts"
    with valkey_server.client() as client:
        foreign = {"session": b"somebody's", "large\x1fabc\x1f1": b"KVCF\x01", "copy": client.get("small")}
        for name, value in foreign.items():
            client.set(name, value)
        client.rpush("small list", "x")
    async with ConnectorManager(valkey_server.url(), local_cpu_backend=local_cpu_backend) as manager:
        connector = manager.create_connector()
        await put_all(connector, local_cpu_backend)
        counted = await clear(connector, "", dry_run=True)
        assert (counted.matched, counted.outdated, counted.removed) == (2, 7, 0)
        assert outdated < names(valkey_server)
        assert (await clear(connector, "lar")).outdated == 6
        done = await clear(connector, "")
        assert (done.matched, done.removed, done.outdated, done.is_complete) == (1, 1, 1, True)
    assert names(valkey_server) == {*foreign, "small list"}
