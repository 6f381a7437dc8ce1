"""The usage example that `external://` was specified by runs as written, with this package's import names."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmcache_connect import ConnectorConfig, LocalCPUBackend, ManagedConnector, MemoryObj, RemoteConnector
from lmcache_connect.loop import LoopOwner
from lmcache_connect_external.adapter import ExternalConnectorAdapter

EXAMPLE = """\
# URL format for external connectors:
# external://host:0/my_module.my_submodule/?connector_name=MyCustomConnector

# The adapter is typically created via the ConnectorManager auto-discovery:
from lmcache.v1.storage_backend.connector import CreateConnector

connector = CreateConnector(
    url="external://host:0/my_custom_connector.module/?connector_name=MyConnector",
    loop=event_loop,
    local_cpu_backend=cpu_backend,
    config=config,
    metadata=metadata,
)
"""

MODULE = """\
from tests.foreign.strangers.minimal import MinimalConnector


class MyConnector(MinimalConnector):
    pass
"""


@pytest.fixture
def _my_custom_connector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package = tmp_path / "my_custom_connector"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("my_custom_connector.module", "my_custom_connector"):
        sys.modules.pop(name, None)


@pytest.mark.asyncio
@pytest.mark.usefixtures("_my_custom_connector")
async def test_the_usage_example_runs_as_written() -> None:
    program = EXAMPLE.replace("lmcache.v1.storage_backend.connector", "lmcache_connect")
    with LocalCPUBackend(1 << 20) as cpu_backend:
        owner = LoopOwner.start()
        names: dict[str, Any] = {
            "event_loop": owner.loop,
            "cpu_backend": cpu_backend,
            "config": ConnectorConfig.load(),
            "metadata": None,
        }

        def example() -> None:
            exec(program, names)
            connector = names["connector"]
            assert isinstance(connector, ManagedConnector)
            assert isinstance(connector.wrapped, RemoteConnector)
            wrapped: Any = connector.wrapped
            assert type(wrapped).__module__ == "my_custom_connector.module"
            assert wrapped.given["loop"] is owner.loop
            assert wrapped.given["local_cpu_backend"] is cpu_backend
            assert wrapped.given["config"] is names["config"]
            chunk = cpu_backend.allocate((64,), "uint8")
            assert chunk is not None
            with chunk:
                chunk.byte_array[:2] = b"KV"
                connector.sync.put("k", chunk)
            found = connector.sync.get("k")
            assert isinstance(found, MemoryObj)
            with found:
                assert bytes(found.byte_array[:2]) == b"KV"
            connector.sync.close()

        try:
            await asyncio.to_thread(example)
        finally:
            await owner.close()


def test_the_adapter_takes_no_arguments_and_parses_its_own_scheme() -> None:
    adapter = ExternalConnectorAdapter()
    assert adapter.can_parse("external://host:0/my_custom_connector.module/?connector_name=MyConnector")
    assert not adapter.can_parse("externals://host:0/module/?connector_name=MyConnector")
