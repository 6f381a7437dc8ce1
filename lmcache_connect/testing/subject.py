"""`Subject`: one connector under test, with what its rules need: keys, chunks with known bytes, and an arena."""

from __future__ import annotations

import asyncio
import gc
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, Final, Protocol, TypeVar

from ..dtypes import known_dtypes
from ..errors import LMCacheConnectError
from ..keys import MAX_KEY_BYTES, Key, key_string
from ..managed import ManagedConnector
from ..manager import ConnectorManager
from ..memory import LocalCPUBackend, MemoryObj
from ..metadata import MAX_DIMS, MAX_GROUPS, MemoryFormat
from .breakable_store import BreakableStore

T = TypeVar("T")
KeyT = TypeVar("KeyT", bound=Key)
SuiteT = TypeVar("SuiteT", bound="Limited")

CANCEL_GRACE: Final = 1.0
"""Seconds that a call which took too long has to end after it was cancelled."""

LARGEST: Final = 64 << 20
"""The bytes of the largest chunk that the suite stores."""

_PIECE: Final = 1 << 20
_CACHED: Final = 2 << 20
"""Larger payloads are kept one at a time: each takes long to make, and much memory to keep."""


@dataclass(frozen=True)
class Capabilities:
    """What an author claims that a connector does. What is claimed is tested. The rest is skipped, with the reason.

    Attributes:
        remove: `remove` removes a key and returns whether it was there.
        list: `list` returns every key.
        scan: `scan` returns the keys with a prefix.
        ping: `ping` asks the store.
        ttl: chunks expire; see `ConnectorConformance.ttl_url`.
        raw: stored records have a checksum, and the suite can damage them; see `ConnectorConformance.read_raw`.
        shared: chunks outlive their connector, and every connector for the same URL sees them.
        key_bytes: the longest key that the store takes, in UTF-8 bytes.
        dtypes: the names of the dtypes that the store can hold.
        max_chunk_bytes: the largest chunk that the store takes.
        dimensions: the most dimensions of a tensor group that the store can hold.
        groups: the most tensor groups of a chunk that the store can hold.
        stale_for: seconds for which a connector may not see what another one has put or removed. 0: it sees it at once.
    """

    remove: bool = False
    list: bool = False
    scan: bool = False
    ping: bool = False
    ttl: bool = False
    raw: bool = False
    shared: bool = False
    key_bytes: int = MAX_KEY_BYTES
    dtypes: tuple[str, ...] = known_dtypes()
    max_chunk_bytes: int = LARGEST
    dimensions: int = MAX_DIMS
    groups: int = MAX_GROUPS
    stale_for: float = 0.0


class Subject:
    """A connector that `manager` made on the running loop, and the arena `backend` that it receives into.

    Attributes:
        read_raw, write_raw: read and replace the record that the store holds under a key.
        another: makes one more connector for the same store, which the manager closes.
        ttl_url: a URL of the same store on which chunks expire after so many seconds.
        breakable: a context manager that gives the store and a connector to it, which a rule may break. Skips the test
            where the suite cannot break its store. True as its argument: only by a fault proxy.
        has_failed: whether a rule failed. What it left behind is not checked then.
    """

    def __init__(
        self,
        manager: ConnectorManager,
        connector: ManagedConnector,
        backend: LocalCPUBackend,
        capabilities: Capabilities,
        *,
        read_raw: Callable[[str], Awaitable[bytes | None]],
        write_raw: Callable[[str, bytes], Awaitable[None]],
        another: Callable[[], Awaitable[ManagedConnector]],
        ttl_url: Callable[[float], str],
        breakable: Callable[[bool], AbstractAsyncContextManager[BreakableStore]],
    ) -> None:
        self.manager = manager
        self.connector = connector
        self.backend = backend
        self.capabilities = capabilities
        self.read_raw = read_raw
        self.write_raw = write_raw
        self.another = another
        self.ttl_url = ttl_url
        self.breakable = breakable
        self.has_failed = False
        # No two tests share a key, so a store may be shared and need not be empty.
        self.namespace = f"conformance-{uuid.uuid4().hex[:12]}"
        self._keys: dict[str, None] = {}

    def key(self, name: str = "chunk") -> str:
        """A key that no other test uses. It is removed at the end, where the connector can remove."""
        return self.own(f"{self.namespace}-{name}")

    def keys(self, count: int, name: str = "chunk") -> list[str]:
        """`count` keys that no other test uses."""
        return [self.key(f"{name}-{index}") for index in range(count)]

    def own(self, key: KeyT) -> KeyT:
        """Has `key` removed at the end, and returns it."""
        self._keys[key_string(key)] = None
        return key

    def chunk(
        self,
        key: Key,
        nbytes: int = 4096,
        *,
        version: int = 0,
        shapes: Any = None,
        dtypes: Any = "uint8",
        fmt: MemoryFormat | None = None,
    ) -> MemoryObj:
        """A chunk whose bytes follow from its key and version. It has `nbytes` bytes, or the given shapes."""
        obj = self.backend.allocate((nbytes,) if shapes is None else shapes, dtypes, fmt)
        assert obj is not None, f"the suite's arena has no room for {nbytes} bytes: {self.backend!r}"
        obj.byte_array[:] = payload(key, obj.get_size(), version)
        return obj

    async def put(self, key: Key, nbytes: int = 4096, *, version: int = 0) -> None:
        """Stores such a chunk and releases it."""
        with self.chunk(key, nbytes, version=version) as obj:
            await self.connector.put(key, obj)

    async def read(self, key: Key) -> bytes | None:
        """The bytes of the chunk that `get` returns, or None."""
        obj = await self.connector.get(key)
        if obj is None:
            return None
        with obj:
            return bytes(obj.byte_array)

    async def expect(self, key: Key, nbytes: int = 4096, *, version: int = 0) -> None:
        """Fails unless `get` returns exactly what `put` stored for this key, size and version."""
        check_payload(await self.connector.get(key), key, nbytes, version=version)

    def take_all_room(self, but: int = 0) -> list[MemoryObj]:
        """Objects that fill the arena, except for `but` pieces of 1 MiB. The caller releases them."""
        held: list[MemoryObj] = []
        for nbytes in (_PIECE, 4096):
            while (obj := self.backend.allocate((nbytes,), "uint8")) is not None:
                held.append(obj)
        for _ in range(but):
            held.pop(0).ref_count_down()
        return held

    def check_nothing_is_held(self, what: str, but: int = 0) -> None:
        """Fails where chunks are alive in the arena, `but` for those of the rule itself."""
        now = self.backend.statistics()
        held = now.live_objects + now.leaked_objects - but  # those that were collected without a release, too
        assert held == 0, (
            f"{what} left {held} chunks that nobody received; release what was allocated, in an `except "
            "BaseException`, wherever get() awaits something after it has allocated"
        )

    async def clean(self) -> None:
        """Removes every key that the test used, where the connector can remove. Ignores errors of the connector."""
        if not self.capabilities.remove or self.connector.is_closed:
            return
        try:
            for key in self._keys:
                await self.connector.remove(key)
        except LMCacheConnectError:
            pass

    def requires(self, *names: str) -> None:
        """Skips the test unless every one of these capabilities is claimed."""
        import pytest

        for name in names:
            if not getattr(self.capabilities, name):
                pytest.skip(f"the connector does not claim the capability {name!r}")


class Limited(Protocol):
    """A suite of rules with a time limit, in seconds."""

    limit: float


Rule = Callable[[SuiteT, Subject], Coroutine[Any, Any, None]]


def rule(method: Rule[SuiteT]) -> Rule[SuiteT]:
    """Makes a method a rule: it must end within its suite's `limit`. Marks the subject where the rule fails."""

    @wraps(method)
    async def bounded(self: SuiteT, subject: Subject) -> None:
        try:
            await within(self.limit, method(self, subject), method.__name__)
        except BaseException:
            subject.has_failed = True
            raise

    return bounded


async def within(seconds: float, call: Coroutine[Any, Any, T], what: str) -> T:
    """The result of `call`. Raises `AssertionError` after `seconds`, also where the call ignores its cancellation."""
    task = asyncio.get_running_loop().create_task(call)
    try:
        await asyncio.wait((task,), timeout=seconds)
    finally:
        task.cancel()  # does nothing to a task that is done
    if not task.done():
        await asyncio.wait((task,), timeout=CANCEL_GRACE)
        task.add_done_callback(_outcome_is_known)
        raise AssertionError(f"{what} did not end within {seconds} s")
    if task.cancelled():
        raise AssertionError(f"{what} was cancelled, and nobody had asked for it")
    return task.result()


async def outcome(task: asyncio.Task[T], seconds: float, what: str) -> T | BaseException:
    """The task's result, its exception or a `CancelledError`. Raises `AssertionError` after `seconds`."""
    await asyncio.wait((task,), timeout=seconds)
    if not task.done():
        task.add_done_callback(_outcome_is_known)
        raise AssertionError(f"{what} did not end within {seconds} s")
    if task.cancelled():
        return asyncio.CancelledError()
    error = task.exception()
    return task.result() if error is None else error


async def yield_to_loop(times: int) -> None:
    """Lets the event loop run its other tasks so many times."""
    for _ in range(times):
        await asyncio.sleep(0)


def _outcome_is_known(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # so that asyncio does not log it: the test has failed already


def payload(key: Key, nbytes: int, version: int = 0) -> bytes:
    """Bytes for one key, version and size. A mixture of two such payloads equals neither."""
    made = _small_payload if nbytes <= _CACHED else _large_payload
    return made(f"{key_string(key)}/{version}/{nbytes}", nbytes)


@lru_cache(maxsize=8)  # what was just put is usually what is compared next
def _small_payload(seed: str, nbytes: int) -> bytes:
    return random.Random(seed).randbytes(nbytes)


@lru_cache(maxsize=1)
def _large_payload(seed: str, nbytes: int) -> bytes:
    # In pieces, because one large integer takes twice as long.
    source = random.Random(seed)
    return b"".join(source.randbytes(min(_PIECE, nbytes - start)) for start in range(0, nbytes, _PIECE))


def is_same(found: bytes | bytearray | memoryview | None, *expected: bytes) -> bool:
    """Whether `found` is one of `expected`. For assertions about payloads.

    If `==` stands in the assertion itself and fails, pytest makes a diff of the two. With the variable `CI` set, that
    is the whole diff, which takes minutes for a payload.
    """
    return found is not None and bytes(found) in expected


def check_payload(obj: MemoryObj | None, key: Key, nbytes: int, *, version: int = 0) -> None:
    """Fails unless `obj` holds the payload of this key, size and version. Releases `obj`."""
    assert obj is not None, f"{key!r} was stored and is a miss"
    with obj:
        found = bytes(obj.byte_array)
    assert len(found) == nbytes, f"{key!r} was stored with {nbytes} bytes and came back with {len(found)}"
    assert is_same(found, payload(key, nbytes, version)), f"{key!r} came back with other bytes than were stored last"


def release(objs: Iterable[object]) -> None:
    """Releases one reference of every memory object in `objs`."""
    for obj in objs:
        if isinstance(obj, MemoryObj) and obj.is_valid():
            obj.ref_count_down()


def check_arena_balance(backend: LocalCPUBackend) -> None:
    """Fails where a backend's arena is not empty: an object was not released, or a view of one is still there.

    Collects garbage first.

    Raises:
        AssertionError: what is still held.
    """
    now = backend.statistics()
    if now.reserved or now.live_objects:
        gc.collect()
        now = backend.statistics()
    assert now.reserved == now.live_objects == now.leaked_objects == 0, (
        f"the arena's balance is not zero: {now.reserved} bytes in {now.blocks} blocks are still reserved, "
        f"{now.live_objects} objects were never released, and {now.leaked_objects} were only found by the garbage "
        "collector; each get() hands over one reference, which its caller releases, and put() borrows"
    )
