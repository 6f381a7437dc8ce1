"""`NativeClient` and `L2Adapter` under LMCache's own storage manager, controllers and wrappers."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from lmcache_connect.record import chunk_names
from lmcache_connect.testing import RcloneServer, ValkeyServer

# Read when LMCache is imported.
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")
os.environ["LMCACHE_TRACK_USAGE"] = "false"

torch: Any = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("lmcache", reason="LMCache is not installed")
pytest.importorskip("lmcache.v1.distributed.storage_manager", reason="LMCache has no multi-process server")

pytestmark = [
    pytest.mark.torch,
    pytest.mark.lmcache,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

FACTS = {"dtype": "bfloat16", "kv_layout": "LMCache", "revision": "0a1b2c3"}
WAIT = 30.0
Start = Callable[..., Any]


def spec(kind: str, url: str, **params: Any) -> dict[str, Any]:
    """The adapter as LMCache's option `--l2-adapter` is given it."""
    name = {"native_plugin": "NativeClient", "plugin": "L2Adapter"}[kind]
    return {
        "type": kind,
        "module_path": "lmcache_connect.engines.lmcache",
        "class_name": name,
        "adapter_params": {"url": url, "identity": FACTS, **params},
    }


def layout() -> Any:
    from lmcache.v1.distributed.api import MemoryLayoutDesc

    return MemoryLayoutDesc(shapes=[torch.Size([64, 2, 512])], dtypes=[torch.bfloat16])


def keys(count: int, **fields: Any) -> list[Any]:
    from lmcache.v1.distributed.api import ObjectKey

    return [
        ObjectKey(**{"chunk_hash": number.to_bytes(8, "big"), "model_name": "org/model", "kv_rank": 0x0102, **fields})
        for number in range(count)
    ]


def fill(key: Any, obj: Any) -> bytes:
    """Bytes that only this key's object has, in the object; returns them."""
    payload = random.Random(key.chunk_hash + key.cache_salt.encode()).randbytes(obj.get_size())
    memoryview(obj.byte_array).cast("B")[:] = payload
    return payload


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


class Storage:
    """LMCache's storage manager: what its server stores in and loads from."""

    def __init__(self, adapter: dict[str, Any]) -> None:
        from lmcache.v1.distributed.config import (
            EvictionConfig,
            L1ManagerConfig,
            L1MemoryManagerConfig,
            StorageManagerConfig,
        )
        from lmcache.v1.distributed.l2_adapters.config import L2AdaptersConfig, get_l2_adapter_config_class
        from lmcache.v1.distributed.storage_manager import StorageManager

        self._is_closed = False
        memory = L1MemoryManagerConfig(size_in_bytes=64 << 20, use_lazy=False, align_bytes=0x1000)
        kind = get_l2_adapter_config_class(adapter["type"])
        self.manager = StorageManager(
            StorageManagerConfig(
                l1_manager_config=L1ManagerConfig(memory_config=memory, write_ttl_seconds=600, read_ttl_seconds=300),
                eviction_config=EvictionConfig(eviction_policy="LRU"),
                l2_adapter_config=L2AdaptersConfig(adapters=[kind.from_dict(adapter)]),
            )
        )

        self.stored: set[Any] = set()
        for _, each in self.manager.l2_adapters():
            each.register_listener(self._listener())

    def _listener(self) -> Any:
        from lmcache.v1.distributed.internal_api import L2AdapterListener

        class Listener(L2AdapterListener):  # type: ignore[misc]
            def on_l2_keys_stored(_, keys: list[Any], sizes: list[int]) -> None:  # noqa: N805
                self.stored.update(keys)

            def on_l2_keys_accessed(_, keys: list[Any]) -> None:  # noqa: N805
                pass

            def on_l2_keys_deleted(_, keys: list[Any]) -> None:  # noqa: N805
                self.stored.difference_update(keys)

        return Listener()

    def store(self, wanted: Sequence[Any]) -> dict[Any, bytes]:
        """Writes objects, and waits until LMCache has stored them in L2."""
        reserved = self.manager.reserve_write(list(wanted), layout())
        assert len(reserved) == len(wanted)
        payloads = {key: fill(key, obj) for key, obj in reserved.items()}
        self.manager.finish_write(list(reserved))
        until(lambda: self.stored >= set(wanted))
        return payloads

    def load(self, wanted: Sequence[Any]) -> list[Any]:
        """Has the objects prefetched. Returns those that LMCache found, in order, up to the first miss."""
        from lmcache.v1.distributed.api import GroupedObjectKeys, PrefetchTaskSpec

        group = GroupedObjectKeys(keys=list(wanted), object_group_id=0, layout_desc=layout())
        handle = self.manager.submit_prefetch_task(PrefetchTaskSpec(key_groups=[group]))
        ends = time.monotonic() + WAIT
        while (result := self.manager.query_prefetch_status(handle)) is None:
            assert time.monotonic() < ends
            time.sleep(0.01)
        return list(wanted[: result.hit_cells[0].count_leading_ones()])

    def read(self, wanted: Sequence[Any]) -> list[bytes]:
        """The bytes of objects that were loaded."""
        with self.manager.read_prefetched_results(list(wanted)) as found:
            assert found is not None
            payloads = [bytes(memoryview(obj.byte_array).cast("B")) for obj in found]
        self.manager.finish_read_prefetched(list(wanted))
        return payloads

    def close(self) -> None:
        if not self._is_closed:  # LMCache's own close() can be called once
            self._is_closed = True
            self.manager.close()


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Storage] = []

    def starter(adapter: dict[str, Any]) -> Storage:
        started.append(Storage(adapter))
        return started[-1]

    yield starter
    for storage in started:
        storage.close()


@pytest.fixture(params=["valkey", "redis", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "s3":
        server: RcloneServer = request.getfixturevalue("rclone_server")
        return server.url(f"real-{abs(hash(request.node.nodeid))}")
    store: ValkeyServer = request.getfixturevalue(f"{request.param}_server")
    store.flush()
    return store.url()


@pytest.mark.parametrize("kind", ["native_plugin", "plugin"])
def test_after_a_restart_every_object_is_loaded_and_none_is_swapped(start: Start, url: str, kind: str) -> None:
    wanted = keys(48)
    first = start(spec(kind, url))
    payloads = first.store(wanted)
    first.close()
    second = start(spec(kind, url))
    shuffled = random.Random(7).sample(wanted, len(wanted))
    assert second.load(shuffled) == shuffled
    assert second.read(shuffled) == [payloads[key] for key in shuffled]


@pytest.mark.parametrize("kind", ["native_plugin", "plugin"])
def test_a_damaged_object_ends_the_prefix_and_the_server_goes_on(
    start: Start, valkey_url: str, valkey_server: ValkeyServer, kind: str
) -> None:
    from lmcache_connect.engines.lmcache.object_names import ObjectNames

    wanted = keys(4)
    first = start(spec(kind, valkey_url))
    payloads = first.store(wanted)
    first.close()
    [name] = chunk_names("", [ObjectNames(FACTS).name(f"org/model@00000102@0@{wanted[2].chunk_hash.hex()}")])
    with valkey_server.client() as client:
        record = client.get(name)
        assert isinstance(record, bytes)
        client.set(name, record[:-900] + bytes((record[-900] ^ 1,)) + record[-899:])
    second = start(spec(kind, valkey_url))
    assert second.load(wanted) == wanted[:2]
    assert second.read(wanted[:2]) == [payloads[key] for key in wanted[:2]]
    again = wanted[3:]
    assert second.load(again) == again
    assert second.read(again) == [payloads[wanted[3]]]


@pytest.mark.parametrize("kind", ["native_plugin", "plugin"])
def test_a_store_that_is_down_is_a_miss_for_lmcache(start: Start, kind: str) -> None:
    with ValkeyServer() as server:
        storage = start(spec(kind, server.url(), deadline=2.0))
        server.kill()
        assert storage.load(keys(3)) == []


@pytest.mark.parametrize("kind", ["native_plugin", "plugin"])
def test_another_salt_loads_nothing(start: Start, valkey_url: str, kind: str) -> None:
    first = start(spec(kind, valkey_url))
    first.store(keys(2, cache_salt="blue"))
    first.close()
    second = start(spec(kind, valkey_url))
    assert second.load(keys(2, cache_salt="red")) == []
    assert len(second.load(keys(2, cache_salt="blue"))) == 2


def test_lmcache_lists_what_l2_holds_and_counts_its_bytes_by_salt(start: Start, valkey_url: str) -> None:
    storage = start(spec("plugin", valkey_url, max_capacity_gb=1))
    salted = keys(2, cache_salt="blue")
    nbytes = sum(len(payload) for payload in storage.store([*keys(3), *salted]).values())
    [(_, adapter)] = storage.manager.l2_adapters()
    page = adapter.list_l2_keys("org/model", page_size=10)
    assert {entry.key.to_object_key() for entry in page.entries} == {*keys(3), *salted}
    usage = adapter.get_usage()
    assert (usage.total_bytes_used, usage.total_capacity_bytes) == (nbytes, 1 << 30)
    assert usage.bytes_by_cache_salt == {"": nbytes * 3 // 5, "blue": nbytes * 2 // 5}
    assert adapter.report_status()["is_healthy"] is True
    adapter.delete(salted)
    assert adapter.get_usage().bytes_by_cache_salt == {"": nbytes * 3 // 5}


@pytest.mark.parametrize("kind", ["native_plugin", "plugin"])
def test_a_wrong_url_is_said_at_lmcaches_start(kind: str) -> None:
    from lmcache.v1.distributed.l2_adapters import create_l2_adapter
    from lmcache.v1.distributed.l2_adapters.config import get_l2_adapter_config_class

    from lmcache_connect.errors import InvalidURLError

    adapter = spec(kind, "redis://store:6379?tll=5")
    with pytest.raises(InvalidURLError, match="tll"):
        create_l2_adapter(get_l2_adapter_config_class(kind).from_dict(adapter))


@pytest.mark.parametrize("field", ["model_name", "cache_salt"])
def test_lmcache_refuses_the_sign_that_parts_its_keys_so_that_no_two_have_one_text(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must not contain"):
        keys(1, **{field: "model@00000102"})
