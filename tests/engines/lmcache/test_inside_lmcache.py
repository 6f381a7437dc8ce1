"""This toolkit's connectors inside LMCache: through its real RemoteBackend, on its own memory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmcache_connect import ConnectorManager, LocalCPUBackend
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import Fault, FaultKind, FaultProxy, ValkeyServer
from lmcache_connect.testing.servers.redis import StoreServer

from ..secret_urls import WITH_A_SECRET, check_warning

# Read when LMCache is imported.
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")
os.environ["LMCACHE_TRACK_USAGE"] = "false"

torch: Any = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("lmcache", reason="LMCache is not installed")

pytestmark = [
    pytest.mark.torch,
    pytest.mark.lmcache,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

TOKENS = 16
SHAPE = (2, 4, TOKENS, 16)  # KV_2LTD: 4 layers, 16 tokens, 2 heads of 8
NBYTES = 2 * 2 * 4 * TOKENS * 16

Start = Callable[..., Any]


class Inside:
    """LMCache's backends with the plug-in, on a loop of their own as in LMCache."""

    def __init__(self, url: str, name: str = "connect", megabytes: int = 16, **settings: Any) -> None:
        from lmcache.v1.config import LMCacheEngineConfig
        from lmcache.v1.metadata import LMCacheMetadata
        from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend as TheirBackend
        from lmcache.v1.storage_backend.remote_backend import RemoteBackend

        prefix = f"remote_storage_plugin.{name}"
        self.config = LMCacheEngineConfig.from_defaults(
            chunk_size=TOKENS,
            local_cpu=False,
            max_local_cpu_size=megabytes / 1024,
            remote_storage_plugins=[name],
            blocking_timeout_secs=5,
            extra_config={
                f"{prefix}.module_path": "lmcache_connect.engines.lmcache.plugin",
                f"{prefix}.class_name": "ConnectAdapter",
                f"{prefix}.url": url,
                **{f"{prefix}.{key}": value for key, value in settings.items()},
            },
        )
        self.metadata = LMCacheMetadata(
            model_name="org/model",
            world_size=1,
            local_world_size=1,
            worker_id=0,
            local_worker_id=0,
            kv_dtype=torch.bfloat16,
            kv_shape=(4, 2, TOKENS, 2, 8),
            chunk_size=TOKENS,
        )
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.memory = TheirBackend(self.config, self.metadata, dst_device="cpu")
        self.remote = RemoteBackend(
            self.config, self.metadata, self.loop, self.memory, dst_device="cpu", plugin_name=name
        )
        assert self.remote.connection is not None, "LMCache has not taken the plug-in"
        self.free = self.allocated()

    def allocated(self) -> int:
        """Bytes in use of LMCache's memory."""
        return int(self.memory.memory_allocator.pin_allocator.total_allocated_size)

    def key(self, number: int) -> Any:
        from lmcache.utils import CacheEngineKey

        return CacheEngineKey("org/model", 1, 0, number, torch.bfloat16)

    def chunk(self, number: int, tokens: int = TOKENS) -> Any:
        """A chunk of LMCache's whose bytes tell its number."""
        obj = self.memory.allocate(torch.Size((2, 4, tokens, 16)), torch.bfloat16, eviction=False, busy_loop=False)
        assert obj is not None
        view(obj)[:] = payload(number, obj.get_size())
        return obj

    def put(self, number: int, tokens: int = TOKENS) -> None:
        """As LMCache puts: the task has a reference of its own, the caller keeps his."""
        obj = self.chunk(number, tokens)
        self.remote.submit_put_task(self.key(number), obj).result(10)
        assert obj.get_ref_count() == 1
        obj.ref_count_down()

    def put_many(self, numbers: list[int]) -> None:
        objs = [self.chunk(number) for number in numbers]
        stored = threading.Semaphore(0)
        self.remote.batched_submit_put_task(
            [self.key(number) for number in numbers], objs, on_complete_callback=lambda key: stored.release()
        )
        for _ in numbers:
            assert stored.acquire(timeout=10)
        assert [obj.get_ref_count() for obj in objs] == [1] * len(objs)
        for obj in objs:
            obj.ref_count_down()

    def run(self, call: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(10)

    def close(self) -> None:
        self.remote.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


def payload(number: int, nbytes: int) -> bytes:
    return bytes((number * 31 + index) % 256 for index in range(nbytes))


def view(obj: Any) -> memoryview:
    return memoryview(obj.byte_array).cast("B")


def holds(obj: Any, number: int, tokens: int = TOKENS) -> bool:
    """Whether an object of LMCache's is the chunk of this number; releases it."""
    if obj is None:
        return False
    try:
        assert tuple(obj.get_shape()) == (2, 4, tokens, 16)
        assert obj.get_dtype() == torch.bfloat16
        return bytes(view(obj)) == payload(number, obj.get_size())
    finally:
        obj.ref_count_down()


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Inside] = []

    def make(url: str, **settings: Any) -> Inside:
        running.append(Inside(url, **settings))
        return running[-1]

    yield make
    for inside in running:
        assert inside.allocated() == inside.free, "memory of LMCache's was not released"
        inside.close()


def test_what_lmcache_puts_it_gets_back_in_its_own_memory(start: Start, valkey_url: str) -> None:
    inside = start(valkey_url)
    inside.put(7)
    assert inside.remote.contains(inside.key(7)) is True
    assert inside.remote.contains(inside.key(8)) is False
    found = inside.remote.get_blocking(inside.key(7))
    base = inside.memory.memory_allocator.buffer.data_ptr()
    assert base <= found.tensor.data_ptr() < base + inside.memory.memory_allocator.buffer.numel()
    assert found.get_ref_count() == 1
    assert holds(found, 7)
    assert inside.remote.get_blocking(inside.key(8)) is None


@pytest.mark.parametrize("io", ["thread", "loop"])
def test_a_batch_with_missing_keys_keeps_every_chunk_in_its_slot(start: Start, valkey_url: str, io: str) -> None:
    inside = start(f"{valkey_url}?io={io}&stripe=65536")
    stored = [0, 1, 3, 4, 6]
    inside.put_many(stored)
    found = inside.remote.batched_get_blocking([inside.key(number) for number in range(8)])
    assert [holds(obj, number) for number, obj in enumerate(found)] == [number in stored for number in range(8)]


def test_look_ups_count_the_prefix(start: Start, valkey_url: str) -> None:
    inside = start(valkey_url)
    inside.put_many([0, 1, 2, 4])
    keys = [inside.key(number) for number in range(6)]
    assert inside.remote.batched_contains(keys) == 3
    assert inside.remote.batched_contains(keys[3:]) == 0
    assert inside.run(inside.remote.batched_async_contains("look-up", keys)) == 3
    found = inside.run(inside.remote.batched_get_non_blocking("look-up", keys))
    assert [holds(obj, number) for number, obj in enumerate(found)] == [True] * 3


def test_a_chunk_of_fewer_tokens_comes_back_with_as_many(start: Start, valkey_url: str) -> None:
    inside = start(valkey_url)
    inside.put(5, tokens=3)
    assert holds(inside.remote.get_blocking(inside.key(5)), 5, tokens=3)


def test_a_chunk_that_is_removed_is_gone(start: Start, valkey_url: str) -> None:
    inside = start(valkey_url)
    inside.put(1)
    assert inside.remote.remove(inside.key(1)) is True
    assert inside.remote.remove(inside.key(1)) is False
    assert inside.remote.contains(inside.key(1)) is False


def test_listing_and_ping_tell_of_the_store(start: Start, valkey_url: str) -> None:
    inside = start(valkey_url)
    inside.put(1)
    connection = inside.remote.connection
    assert inside.run(connection.list()) == [inside.key(1).to_string()]
    assert connection.support_ping() is True
    assert inside.run(connection.ping()) == 0
    assert connection.exists_sync(inside.key(1)) is True


def test_what_lmcache_put_this_toolkit_reads_and_the_other_way_round(start: Start, valkey_url: str) -> None:
    inside = start(valkey_url)
    inside.put(1)

    async def outside() -> None:
        with LocalCPUBackend(1 << 20) as backend:
            async with ConnectorManager(valkey_url, local_cpu_backend=backend) as manager:
                connector = manager.create_connector()
                found = await connector.get(inside.key(1).to_string())
                assert found is not None
                with found:
                    assert found.get_shapes() == [SHAPE]
                    assert bytes(found.byte_array) == payload(1, NBYTES)
                obj = backend.allocate(SHAPE, "bfloat16")
                assert obj is not None
                with obj:
                    obj.byte_array[:] = payload(2, NBYTES)
                    await connector.put(inside.key(2).to_string(), obj)

    asyncio.run(outside())
    assert holds(inside.remote.get_blocking(inside.key(2)), 2)


def test_with_lmcaches_layout_lmcaches_own_connector_reads_the_same_store(
    start: Start, valkey_url: str, valkey_server: StoreServer
) -> None:
    inside = start(f"{valkey_url}?layout=lmcache")
    inside.put(1)
    with valkey_server.client() as client:
        names = sorted(name.decode() for name in client.scan_iter())
        assert names == sorted(inside.key(1).to_string() + part for part in ("kv_bytes", "metadata"))
        assert client.get(names[0]) == payload(1, NBYTES)
    assert holds(inside.remote.get_blocking(inside.key(1)), 1)


def test_a_flipped_bit_in_the_store_is_a_miss(start: Start, valkey_url: str, valkey_server: StoreServer) -> None:
    inside = start(valkey_url)
    inside.put_many([0, 1, 2])
    [name] = chunk_names("", [inside.key(1).to_string()])
    with valkey_server.client() as client:
        record = client.get(name)
        assert isinstance(record, bytes)
        client.set(name, record[:200] + bytes((record[200] ^ 1,)) + record[201:])
    found = inside.remote.batched_get_blocking([inside.key(number) for number in range(3)])
    assert [holds(obj, number) for number, obj in enumerate(found)] == [True, False, True]


def test_a_store_that_dies_is_a_miss_and_comes_back_without_a_restart(start: Start) -> None:
    with ValkeyServer() as server:
        inside = start(server.url(), breaker_reset=0.05)
        inside.put(1)
        server.kill()
        assert inside.remote.get_blocking(inside.key(1)) is None
        assert inside.remote.batched_get_blocking([inside.key(1), inside.key(2)]) == [None, None]
        assert inside.remote.contains(inside.key(1)) is False
        assert inside.remote.batched_contains([inside.key(1)]) == 0
        assert inside.run(inside.remote.connection.ping()) != 0
        inside.put(2)  # dropped
        server.start()
        while inside.run(inside.remote.connection.ping()) != 0:
            pass
        # A ping says nothing of transfers: the breaker lets one of them through after `breaker_reset`.
        while not holds(inside.remote.get_blocking(inside.key(3)), 3):
            inside.put(3)


def test_a_get_that_lmcache_gives_up_releases_its_memory(
    start: Start, valkey_server: ValkeyServer, valkey_url: str
) -> None:
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        inside = start(f"redis://{proxy.host}:{proxy.port}?io=thread", operation_timeout=30)
        inside.put(1)
        proxy.arm(Fault(FaultKind.STALL, after_bytes=300))
        inside.config.blocking_timeout_secs = 0.2
        assert inside.remote.get_blocking(inside.key(1)) is None
        proxy.disarm()
        inside.config.blocking_timeout_secs = 5
        assert holds(inside.remote.get_blocking(inside.key(1)), 1)


def test_where_lmcache_has_no_room_a_get_is_a_miss_in_time(start: Start, valkey_url: str) -> None:
    inside = start(valkey_url, allocate_timeout=0.05)
    inside.put(1)
    held = []
    while (
        obj := inside.memory.allocate(torch.Size(SHAPE), torch.bfloat16, eviction=False, busy_loop=False)
    ) is not None:
        held.append(obj)
    assert inside.remote.get_blocking(inside.key(1)) is None
    assert inside.remote.batched_get_blocking([inside.key(1), inside.key(1)]) == [None, None]
    for obj in held:
        obj.ref_count_down()
    assert holds(inside.remote.get_blocking(inside.key(1)), 1)


@pytest.mark.parametrize("io", ["thread", "loop"])
def test_a_batch_beyond_lmcaches_memory_brings_the_prefix_that_fits(start: Start, valkey_url: str, io: str) -> None:
    inside = start(f"{valkey_url}?io={io}", megabytes=2, allocate_timeout=0.05)
    fits = []
    while (
        obj := inside.memory.allocate(torch.Size(SHAPE), torch.bfloat16, eviction=False, busy_loop=False)
    ) is not None:
        fits.append(obj)
    for obj in fits:
        obj.ref_count_down()
    asked = len(fits) + 1
    for number in range(asked):
        inside.put(number)
    keys = [inside.key(number) for number in range(asked)]
    for calls in range(1, 3):
        found = inside.remote.batched_get_blocking(keys)
        expected = [True] * len(fits) + [False]
        assert [holds(obj, number) for number, obj in enumerate(found)] == expected
        del found
        connector = inside.remote.connection.getWrappedConnector().connector
        assert connector.statistics()["batched_get"].misses == {"no_room": calls}
    hits = inside.run(inside.remote.connection.batched_get_non_blocking("", keys))
    assert [holds(obj, number) for number, obj in enumerate(hits)] == [True] * len(fits)


def test_an_instance_has_settings_of_its_own(start: Start, valkey_url: str) -> None:
    inside = start(f"{valkey_url}?prefix=fast", name="connect.fast")
    inside.put(1)
    assert holds(inside.remote.get_blocking(inside.key(1)), 1)
    assert inside.run(inside.remote.connection.list()) == [inside.key(1).to_string()]


def test_close_ends_in_time_and_twice(start: Start, valkey_url: str) -> None:
    inside = start(valkey_url)
    inside.put(1)
    connection = inside.remote.connection
    inside.run(connection.close())
    inside.run(connection.close())
    assert inside.remote.get_blocking(inside.key(1)) is None


def test_an_adapter_answers_for_its_own_plug_in_alone() -> None:
    from lmcache_connect.engines.lmcache.plugin import ConnectAdapter

    adapter = ConnectAdapter()
    assert adapter.can_parse("plugin://connect")
    assert adapter.can_parse("plugin://connect.fast")
    for url in ("plugin://connector", "plugin://other.connect", "redis://connect", "plugin://"):
        assert not adapter.can_parse(url)


def test_tags_that_lmcaches_text_takes_for_others_are_kept_apart(start: Start, valkey_url: str) -> None:
    import dataclasses

    inside = start(valkey_url)
    plain = inside.key(1)
    one, two = (
        dataclasses.replace(plain, request_configs={f"lmcache.tag.{tag}": value for tag, value in tags})
        for tags in ([("t", "a@u%b")], [("t", "a"), ("u", "b")])
    )
    assert one.to_string() == two.to_string()
    obj = inside.chunk(1)
    inside.run(inside.remote.connection.put(one, obj))
    assert inside.run(inside.remote.connection.exists(one))
    assert not inside.run(inside.remote.connection.exists(two))
    assert inside.run(inside.remote.connection.get(two)) is None
    obj.ref_count_down()


def test_a_missing_url_is_named() -> None:
    from lmcache.v1.storage_backend.connector import ConnectorContext

    from lmcache_connect.engines.lmcache.plugin import ConnectAdapter
    from lmcache_connect.errors import InvalidConfigError

    context = ConnectorContext("plugin://connect", None, None, None, None, "connect")
    with pytest.raises(InvalidConfigError, match=r"remote_storage_plugin\.connect\.url"):
        ConnectAdapter().create_connector(context)


@pytest.mark.parametrize("holder", ["password", "key"])
def test_a_secret_in_the_url_is_taken_and_warned_of_once(
    start: Start, holder: str, caplog: pytest.LogCaptureFixture
) -> None:
    start(WITH_A_SECRET[holder])
    check_warning(caplog, "remote_storage_plugin.connect.url")


def test_bytes_that_lmcache_has_compressed_come_back_as_bytes(start: Start, valkey_url: str) -> None:
    from lmcache.v1.memory_management import BytesBufferMemoryObj, MemoryFormat

    inside = start(valkey_url)
    compressed = BytesBufferMemoryObj(bytearray(payload(9, 1234)))
    inside.run(inside.remote.connection.put(inside.key(9), compressed))
    found = inside.run(inside.remote.connection.get(inside.key(9)))
    assert found.get_memory_format() is MemoryFormat.BINARY_BUFFER
    assert bytes(view(found)) == payload(9, 1234)
    found.ref_count_down()


CLOSING = """
import faulthandler
from tests.engines.lmcache.test_inside_lmcache import Inside, torch

faulthandler.enable()
SHAPE = torch.Size((2, 4, 256, 16))
inside = Inside({url!r}, megabytes=128{settings})
objs = [inside.memory.allocate(SHAPE, torch.bfloat16, eviction=False, busy_loop=False) for _ in range(1500)]
puts = [inside.remote.submit_put_task(inside.key(number), obj) for number, obj in enumerate(objs)]
puts[20].result(10)
inside.memory.close()  # in the order of LMCache's engine: its memory first
inside.close()
outcomes = set(type(put.exception(10)).__name__ for put in puts)
assert outcomes == {{"NoneType"}}, outcomes
print("closed")
"""


@pytest.mark.parametrize("settings", ["", ", close_grace=0.0001"])
def test_an_engine_that_closes_while_puts_are_under_way_waits_for_them(valkey_url: str, settings: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSING.format(url=valkey_url, settings=settings)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[3]), *sys.path])},
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["closed"]), done.stderr


def test_closing_the_connector_alone_leaves_lmcaches_memory_usable(valkey_url: str, start: Start) -> None:
    inside = start(valkey_url)
    freeing = inside.memory.memory_allocator.close
    inside.put(1)
    inside.remote.close()
    obj = inside.chunk(2)
    assert holds(obj, 2)
    assert freeing is inside.memory.memory_allocator.close, "the plug-in stands before it once"
