"""What the wheel brings into every pytest run: fixtures, and a suite that needs no configuration."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lmcache_connect import LocalCPUBackend
from lmcache_connect.testing import ConnectorConformance, ValkeyServer, check_arena_balance
from lmcache_connect.testing import __all__ as public
from lmcache_connect.testing.servers.redis import RedisServer

pytest_plugins = ["pytester"]

RULES = [name for name in dir(ConnectorConformance) if name.startswith("test_")]

PROGRAM = """
import pytest

from lmcache_connect.record import decode_record, encode_record
from lmcache_connect import ConnectorAdapter, RemoteConnector
from lmcache_connect.testing.conformance import Capabilities, ConnectorConformance

views = []


class DictConnector(RemoteConnector):
    def __init__(self, context):
        self.records = {}
        self.backend = context.local_cpu_backend

    async def exists(self, key):
        return str(key) in self.records

    async def get(self, key):
        if (record := self.records.get(str(key))) is None:
            return None
        metadata, payload = decode_record(str(key), record)
        chunk = await self.backend.allocate_async(metadata.shapes, metadata.dtypes, metadata.fmt)
        chunk.byte_array[:] = payload
        return chunk

    async def put(self, key, memory_obj):
        self.records[str(key)] = encode_record(str(key), memory_obj)

    async def list(self):
        return list(self.records)

    async def close(self):
        self.records.clear()


class DictAdapter(ConnectorAdapter):
    schema = "dict://"

    def create_connector(self, context):
        return DictConnector(context)


class TestDict(ConnectorConformance):
    url = "dict://mine"
    adapters = (DictAdapter,)
    capabilities = Capabilities(list=True, scan=True)


def test_probe_gives_everything_back(local_cpu_backend):
    with local_cpu_backend.allocate((100,), "uint8"):
        pass


def test_probe_leaks_a_view(local_cpu_backend):
    with local_cpu_backend.allocate((100,), "uint8") as obj:
        views.append(obj.byte_array)


def test_probe_keeps_an_object(local_cpu_backend):
    views.append(local_cpu_backend.allocate((100,), "uint8"))


def test_probe_ends():
    views[1].ref_count_down()
"""


def test_a_stranger_needs_a_class_and_no_configuration(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(test_strangers=PROGRAM)
    some = "missing_key or remove_tells or bytes_shapes or another_event_loop or probe"
    # pytest-asyncio would warn that it has no configuration, which is so on purpose.
    warnings = ("-W", "error::ResourceWarning", "-W", "ignore::pytest.PytestDeprecationWarning")
    result = pytester.runpytest_inprocess("-rA", *warnings, "-k", some)
    result.assert_outcomes(passed=7, skipped=1, errors=2, deselected=len(RULES) - 4)
    result.stdout.fnmatch_lines_random(
        [
            "PASSED test_strangers.py::TestDict::test_get_of_a_missing_key_is_none",
            "*the connector does not claim the capability 'remove'",
            "PASSED test_strangers.py::test_probe_gives_everything_back",
            "*4096 bytes in 1 blocks are still reserved, 0 objects were never released, and 0 were only found*",
            "ERROR test_strangers.py::test_probe_leaks_a_view*",
            "*4096 bytes in 1 blocks are still reserved, 1 objects were never released, and 0 were only found*",
            "ERROR test_strangers.py::test_probe_keeps_an_object*",
        ]
    )


def test_what_was_dropped_without_a_release_shows_in_the_balance() -> None:
    with LocalCPUBackend(1 << 20) as backend:
        check_arena_balance(backend)
        with pytest.warns(ResourceWarning, match="was never released"):
            backend.allocate((10,), "uint8")
        with pytest.raises(AssertionError, match="1 were only found by the garbage collector"):
            check_arena_balance(backend)


def test_the_session_has_one_valkey_which_is_empty_for_each_test(valkey_server: ValkeyServer, valkey_url: str) -> None:
    assert valkey_url == valkey_server.url()
    with valkey_server.client() as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_the_next_test_finds_nothing_of_it(valkey_server: ValkeyServer, valkey_url: str) -> None:
    with valkey_server.client() as client:
        assert client.dbsize() == 0


def test_a_redis_server_is_there_or_the_test_is_skipped(redis_server: RedisServer) -> None:
    assert redis_server.running


def test_every_public_name_of_testing_exists_and_an_unknown_one_does_not() -> None:
    from lmcache_connect import testing

    assert set(public) <= set(dir(testing))
    for name in public:
        assert getattr(testing, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = testing.nothing


def test_the_plugin_and_the_package_import_neither_drivers_nor_the_suite() -> None:
    script = (
        "import sys, pytest\n"
        "import lmcache_connect\n"
        "core = set(sys.modules)\n"
        "import lmcache_connect.testing.pytest_plugin\n"
        "print(sorted(set(sys.modules) - core), {'redis', 'torch', 'numpy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "['lmcache_connect.testing', 'lmcache_connect.testing.pytest_plugin'] set()"
