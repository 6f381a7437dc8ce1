"""What the conformance suite cannot know: processes that die, disks that fill up, and what else lies in a folder."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from lmcache_connect import (
    AuthenticationError,
    ConnectorManager,
    InvalidURLError,
    LocalCPUBackend,
    ManagedConnector,
    StoreError,
    StoreUnavailableError,
)
from lmcache_connect.errors import (
    InvalidOptionError,
    ReadOnlyStoreError,
    StoreFullError,
    ValueTooLargeError,
    WrongTypeError,
)
from lmcache_connect.testing import check_arena_balance, check_payload, payload
from lmcache_connect_file.adapter import FileConnectorAdapter
from lmcache_connect_file.chunk_folder import STALE, ChunkFolder
from lmcache_connect_file.failures import translated

MIB = 1 << 20


class Store:
    """A folder, and connectors for it."""

    def __init__(self, folder: Path, manager: ConnectorManager) -> None:
        self.folder = folder
        self.url = f"file://{folder}"
        self.manager = manager

    def connector(self, query: str = "") -> ManagedConnector:
        return self.manager.create_connector(self.url + query)

    async def put(self, connector: ManagedConnector, key: str, nbytes: int = 4096, version: int = 0) -> None:
        with await self.manager.local_cpu_backend.allocate_async((nbytes,), "uint8") as chunk:
            chunk.byte_array[:] = payload(key, nbytes, version)
            await connector.put(key, chunk)

    def path(self, key: str) -> Path:
        return ChunkFolder(self.folder, self.url, None, None).path(key)

    def temporary(self) -> list[Path]:
        return list((self.folder / "tmp").iterdir()) if (self.folder / "tmp").exists() else []

    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def writer(self, key: str, nbytes: int, version: int, count: int) -> subprocess.Popen[str]:
        arguments = [self.url, key, *map(str, (nbytes, version, count))]
        command = [sys.executable, str(Path(__file__).with_name("writer.py")), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    folder = tmp_path / "store"
    folder.mkdir()
    backend = LocalCPUBackend(64 * MIB)
    async with ConnectorManager(local_cpu_backend=backend) as manager:
        manager.register(FileConnectorAdapter, replace=True)
        yield Store(folder, manager)
    backend.close()
    check_arena_balance(backend)


def until(condition: Callable[[], bool]) -> None:
    """Looks again and again: nothing tells what another process has done to a folder."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0002)


def has_begun(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False  # it was renamed meanwhile


@pytest.mark.asyncio
async def test_a_process_killed_in_the_middle_of_a_put_leaves_the_chunk_of_before(store: Store) -> None:
    nbytes = 48 * MIB
    for _ in range(20):  # on a busy machine the put may have ended before the signal comes
        await store.put(store.connector(), "k", nbytes, version=1)
        with store.writer("k", nbytes, version=2, count=1) as writer:
            until(lambda: writer.poll() is not None or any(map(has_begun, store.temporary())))
            writer.kill()
        if store.temporary():
            assert writer.returncode == -signal.SIGKILL
            break
    else:
        pytest.fail("no put was killed in its middle")
    check_payload(await store.connector().get("k"), "k", nbytes, version=1)

    # What the dead process left behind is nobody's chunk, and goes away when it is old.
    (left,) = store.temporary()
    assert await store.connector().list() == ["k"]
    await store.put(store.connector(), "other")
    assert left.exists()
    os.utime(left, (time.time() - STALE - 1,) * 2)
    await store.put(store.connector(), "other")
    assert not left.exists()


@pytest.mark.asyncio
async def test_of_several_processes_that_write_one_key_each_chunk_is_whole(store: Store) -> None:
    nbytes = 3 * MIB
    whole = [payload("k", nbytes, version) for version in range(3)]
    connector = store.connector()
    await store.put(connector, "k", nbytes)
    writers = [store.writer("k", nbytes, version, count=40) for version in range(3)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        found = await connector.get("k")
        assert found is not None
        with found:
            seen.add(whole.index(bytes(found.byte_array)))
    for writer in writers:
        with writer:
            assert writer.stdout is not None
            assert writer.stdout.read().endswith("ended\n")
    assert len(seen) > 1
    assert store.temporary() == []


@pytest.mark.asyncio
async def test_a_disk_that_is_full_refuses_puts_and_still_answers(store: Store) -> None:
    connector = store.connector()
    await store.put(connector, "k", MIB, version=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, hard))
    try:
        with pytest.raises(StoreFullError):
            await store.put(connector, "k", 4 * MIB, version=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.temporary() == []
    check_payload(await connector.get("k"), "k", MIB, version=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small tmpfs needs to be root on Linux")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], timeout=10, check=True)


@pytest.mark.asyncio
async def test_a_small_file_system_that_fills_up_keeps_what_it_has_and_takes_more_once_something_is_removed(
    store: Store, small_disk: Path
) -> None:
    full = Store(small_disk, store.manager)
    connector = full.connector()
    for key in ("a", "b", "c"):
        await full.put(connector, key, MIB)
    with pytest.raises(StoreFullError):
        await full.put(connector, "a", 2 * MIB, version=1)
    assert full.temporary() == []
    check_payload(await connector.get("a"), "a", MIB)
    assert await connector.remove("b")
    await full.put(connector, "d", MIB)
    check_payload(await connector.get("d"), "d", MIB)


@pytest.mark.asyncio
async def test_no_key_leads_out_of_the_folder(store: Store, tmp_path: Path) -> None:
    connector = store.connector()
    keys = ["../../escaped", "/etc/passwd", "..", ".", "a/../../b", "%2e%2e%2f", "tmp", "~root"]
    for key in keys:
        await store.put(connector, key)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert all(path.resolve().is_relative_to(store.folder) for path in store.folder.rglob("*"))
    assert sorted(await connector.list()) == sorted(keys)


@pytest.mark.asyncio
async def test_a_link_or_a_pipe_where_a_chunk_should_be_is_neither_followed_nor_waited_for(
    store: Store, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("untouched")
    connector = store.connector()
    await store.put(connector, "k")
    store.path("k").unlink()
    store.path("k").symlink_to(secret)
    with pytest.raises(WrongTypeError):
        await connector.get("k")
    assert not await connector.exists("k")
    assert await connector.list() == []
    await store.put(connector, "k", version=1)  # takes the link's place
    check_payload(await connector.get("k"), "k", 4096, version=1)
    assert secret.read_text() == "untouched"
    store.path("k").unlink()
    os.mkfifo(store.path("k"))
    with pytest.raises(WrongTypeError):
        await connector.get("k")
    assert await connector.list() == []


@pytest.mark.asyncio
async def test_what_else_lies_in_the_folder_is_left_alone(store: Store) -> None:
    strange = [store.folder / "notes.txt", store.folder / "ab" / "notes.txt", store.folder / "zz" / ("0" * 38)]
    for path in strange:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    connector = store.connector("?ttl=0.001&max_bytes=100000")
    for index in range(20):
        await store.put(connector, f"k{index}", 50_000)
    assert [path.read_text() for path in strange] == ["mine"] * 3
    assert set(await connector.list()) <= {f"k{index}" for index in range(20)}


@pytest.mark.asyncio
async def test_the_folder_never_holds_more_than_its_bound_and_keeps_what_is_read(store: Store) -> None:
    connector = store.connector(f"?max_bytes={2 * MIB}")
    await store.put(connector, "read", 100_000)
    for index in range(60):
        await store.put(connector, f"k{index}", 100_000)
        assert store.nbytes() <= 2 * MIB
        check_payload(await connector.get("read"), "read", 100_000)
    assert await connector.exists("k59")
    assert not await connector.exists("k0")
    assert store.nbytes() > MIB
    with pytest.raises(ValueTooLargeError):
        await store.put(connector, "k", 2 * MIB)
    check_payload(await connector.get("k59"), "k59", 100_000)


@pytest.mark.asyncio
async def test_chunks_that_expired_make_room_although_nobody_asks_for_them(store: Store) -> None:
    await store.put(store.connector(), "old", 100_000)
    os.utime(store.path("old"), (time.time() - 61,) * 2)
    aged = store.connector("?ttl=60")
    assert await aged.list() == []
    assert store.path("old").exists()
    await store.put(aged, "new")
    assert not store.path("old").exists()
    assert await aged.list() == ["new"]


@pytest.mark.asyncio
async def test_a_get_of_an_expired_chunk_never_removes_the_one_that_is_put_meanwhile(store: Store) -> None:
    writer = store.connector()
    readers = [store.connector("?ttl=60") for _ in range(3)]
    for _ in range(150):
        await store.put(writer, "k")
        os.utime(store.path("k"), (time.time() - 61,) * 2)
        gets = [asyncio.create_task(reader.get("k")) for reader in readers]
        await store.put(writer, "k")
        for found in await asyncio.gather(*gets):
            if found is not None:
                found.ref_count_down()
        assert await writer.exists("k")
    assert store.temporary() == []


@pytest.mark.asyncio
async def test_a_folder_that_is_not_there_is_made_by_the_first_put_and_empty_before(store: Store) -> None:
    store.folder.rmdir()
    connector = store.connector()
    assert await connector.get("k") is None
    assert await connector.list() == []
    assert not store.folder.exists()
    await store.put(connector, "k")
    assert store.folder.stat().st_mode & 0o077 == 0
    assert store.path("k").read_bytes().startswith(b"k\nKVCF")


@pytest.mark.asyncio
async def test_a_file_where_the_folder_should_be_is_an_error_of_the_toolkit(store: Store) -> None:
    store.folder.rmdir()
    store.folder.write_text("a file")
    with pytest.raises(StoreError):
        await store.put(store.connector(), "k")
    with pytest.raises(StoreError):
        await store.connector().ping()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFullError),
        (errno.EDQUOT, StoreFullError),
        (errno.EROFS, ReadOnlyStoreError),
        (errno.EACCES, AuthenticationError),
        (errno.EIO, StoreUnavailableError),
        (errno.ESTALE, StoreUnavailableError),
    ],
)
def test_each_error_of_the_system_has_its_counterpart(number: int, kind: type[StoreError]) -> None:
    with pytest.raises(kind, match=r"^file:///x: ") as caught, translated("file:///x"):
        raise OSError(number, os.strerror(number))
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.asyncio
@pytest.mark.parametrize("url", ["file://host/path", "file://", "file:///", "file:///a%00b"])
async def test_a_url_that_is_no_folders_is_refused(store: Store, url: str) -> None:
    with pytest.raises(InvalidURLError, match="file:///path/to/folder"):
        store.manager.create_connector(url)


@pytest.mark.asyncio
async def test_options_are_typed(store: Store) -> None:
    for query in ("?threads=0", "?ttl=-1", "?max_bytes=lots", "?size=1"):
        with pytest.raises(InvalidURLError):
            store.connector(query)
    with pytest.raises(InvalidOptionError):
        store.connector("?threads=65")
