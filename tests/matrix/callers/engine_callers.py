"""Clients of the engines on the engines' interfaces restated, so that no engine has to be installed.

Each caller puts and gets one chunk at a time, through memory that stands for the engine's. `get` clears that memory
before, so what it returns was put there by this call.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

from lmcache_connect.engines.jobs import JobPort
from lmcache_connect.engines.lmcache import NativeClient

from ...engines.lmcache.restated import AdapterHost, ObjectKey, is_readable, put_modules
from ...engines.sglang.conftest import config_of
from ...engines.sglang.pools import MHAPool
from ...engines.sglang.restated import restated_sglang
from ...engines.vllm.host import Host
from ...engines.vllm.restated import Names, restated, spec
from ..cell import Mode, Operation
from ..limits import DEADLINE, SIZE
from .caller import Caller
from .connector_caller import forked

_BUSY: Final = 20.0
"""Seconds after which a client is taken to hang."""


class EngineCaller(Caller):
    """Makes its calls in a thread, as engines do."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="asyncio_engine")

    async def put(self, key: str, data: bytes) -> bool:
        return await asyncio.wrap_future(self._thread.submit(self.store, key, data))

    async def get(self, key: str) -> bytes | None:
        return await asyncio.wrap_future(self._thread.submit(self.load, key))

    def in_fork(self, operation: Operation, key: str) -> str:
        call: Callable[[], object] = (
            (lambda: self.load(key)) if operation == "get" else (lambda: self.store(key, bytes(SIZE)))
        )
        return forked(call)

    async def close(self) -> None:
        await asyncio.wrap_future(self._thread.submit(self.end))
        self._thread.shutdown()

    def held(self) -> list[str]:
        return []  # its memory is the engine's, which would see a write after the end

    def store(self, key: str, data: bytes) -> bool:
        """Stores a chunk. Returns what the engine is told."""
        raise NotImplementedError

    def load(self, key: str) -> bytes | None:
        """Loads a chunk. None where the engine is told that it has not come."""
        raise NotImplementedError

    def end(self) -> None:
        """Ends the client."""
        raise NotImplementedError


class EngineFailureError(Exception):
    """What an engine's client tells of a failure, by its reason."""


def _object_key(key: str) -> ObjectKey:
    return ObjectKey(hashlib.sha256(key.encode()).digest())


class PortCaller(EngineCaller):
    """A `JobPort`, on which all clients of engines stand."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._port = JobPort(url, deadline=DEADLINE)

    def store(self, key: str, data: bytes) -> bool:
        return self._result(self._port.submit_put([key], [data]))

    def load(self, key: str) -> bytes | None:
        memory = bytearray(SIZE)
        return bytes(memory) if self._result(self._port.submit_get([key], [memory])) else None

    def end(self) -> None:
        self._port.close(grace=0)

    def _result(self, job: int) -> bool:
        result = self._port.wait(job, _BUSY)
        assert result is not None, "a job has no result"
        if result.reason:
            raise _named(result.reason)
        return result.flags == (True,)


class NativeCaller(EngineCaller):
    """LMCache's `native_plugin`."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._client = NativeClient(url=url, deadline=DEADLINE)

    def store(self, key: str, data: bytes) -> bool:
        return self._end(self._client.submit_batch_set([_object_key(key).text()], [memoryview(data)]))

    def load(self, key: str) -> bytes | None:
        memory = bytearray(SIZE)
        number = self._client.submit_batch_get([_object_key(key).text()], [memoryview(memory)])
        return bytes(memory) if self._end(number) else None

    def end(self) -> None:
        self._client.close()

    def _end(self, number: int) -> bool:
        assert is_readable(self._client.event_fd(), _BUSY), "a batch has no answer"
        [(told, _, error, flags)] = self._client.drain_completions()
        assert told == number
        if error:
            raise _named("False")
        return flags == [True]


class AdapterCaller(EngineCaller):
    """LMCache's `plugin`: `L2Adapter`."""

    def __init__(self, url: str) -> None:
        super().__init__()
        put_modules(lambda modules, name, module: modules.setdefault(name, module))
        from lmcache_connect.engines.lmcache import L2Adapter

        self._host = AdapterHost(L2Adapter({"url": url, "deadline": DEADLINE}, l1_memory_desc=None))

    def store(self, key: str, data: bytes) -> bool:
        return self._host.store([_object_key(key)], [data])

    def load(self, key: str) -> bytes | None:
        memory = bytearray(SIZE)
        return bytes(memory) if self._host.load([_object_key(key)], [memory]) == [True] else None

    def end(self) -> None:
        self._host.close()


class TierCaller(EngineCaller):
    """vLLM's secondary tier."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._stack.enter_context(restated())
        tier = sys.modules.setdefault(_TIER, __import__(_TIER, fromlist=["Tier"])).Tier
        identity = {"revision": "r1"}
        self._host = Host(tier, Names(), spec(), chunks=1, nbytes=SIZE, url=url, identity=identity, deadline=DEADLINE)

    def store(self, key: str, data: bytes) -> bool:
        self._host.write(0, data)
        return bool(self._run("store", key).success)

    def load(self, key: str) -> bytes | None:
        self._host.write(0, bytes(SIZE))
        return self._host.read(0) if self._run("load", key).success else None

    def end(self) -> None:
        self._host.close()
        self._stack.close()

    def _run(self, kind: str, key: str) -> Any:
        name = hashlib.sha256(key.encode()).digest() + (0).to_bytes(4, "big")
        context = self._host.request(f"matrix-{time.monotonic()}")
        return self._host.run(kind, [name], [0], context)


_TIER: Final = "lmcache_connect.engines.vllm.tier"


class HiCacheCaller(EngineCaller):
    """SGLang's HiCache."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._stack = ExitStack()
        kind = self._stack.enter_context(restated_sglang())
        # One page has as many bytes as a chunk of the matrix.
        self._pool = MHAPool("page_first", pages=1, page_size=4, layers=4, heads=64, dim=SIZE // (2 * 4 * 4 * 64 * 2))
        assert self._pool.page_nbytes == SIZE
        self._backend = kind(config_of(url, deadline=DEADLINE), {})
        self._backend.register_mem_pool_host(self._pool)
        self._backend.on_host_pools_registered()

    def store(self, key: str, data: bytes) -> bool:
        self._pool.array.reshape(-1).view("u1")[:] = memoryview(data)
        return bool(self._backend.batch_set_v1([_page(key)], self._pool.indices([0])) == [True])

    def load(self, key: str) -> bytes | None:
        self._pool.array[:] = 0
        if self._backend.batch_get_v1([_page(key)], self._pool.indices([0])) != [True]:
            return None
        return bytes(self._pool.array.tobytes())

    def end(self) -> None:
        self._backend.close()
        self._stack.close()


def _page(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _named(reason: str) -> Exception:
    """An exception of a class with this name, so that it is told as errors are."""
    kind: type[Exception] = type(reason, (EngineFailureError,), {})
    return kind(reason)


async def open_port(url: str, errors: Mode) -> Caller:
    """A job port."""
    return await asyncio.to_thread(PortCaller, url)


async def open_native(url: str, errors: Mode) -> Caller:
    """LMCache's native client."""
    return await asyncio.to_thread(NativeCaller, url)


async def open_adapter(url: str, errors: Mode) -> Caller:
    """LMCache's adapter."""
    return await asyncio.to_thread(AdapterCaller, url)


async def open_tier(url: str, errors: Mode) -> Caller:
    """vLLM's tier."""
    return await asyncio.to_thread(TierCaller, url)


async def open_hicache(url: str, errors: Mode) -> Caller:
    """SGLang's backend."""
    return await asyncio.to_thread(HiCacheCaller, url)
