"""A canary in the URL, the configuration and the environment is in no answer, no log line and no metric."""

from __future__ import annotations

import logging
from typing import Any, Final

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer
from lmcache_connect.testing import ValkeyServer

from .conftest import client_of

CANARY: Final = "canary-4f9a"
TOKEN: Final = f"{CANARY}-of-the-token"
BEARER: Final = {"authorization": f"Bearer {TOKEN}"}

EXTRA: Final[dict[str, Any]] = {
    "redis.password": CANARY,
    "my.url": f"redis://u:{CANARY}@h",
    "nested": {"deep": [CANARY]},
    "plain_text": CANARY,
    f"redis://u:{CANARY}@h/setting": 1,
    "a.module_path": "fine",
}


async def everything(server: InternalAPIServer, url: str) -> list[str]:
    """Every answer there is: each route with and without the token, right and wrong, and the metrics apart."""
    found: list[str] = []
    document = server.app.openapi()
    bodies: list[Any] = [
        {"enabled": False},
        {"keys": ["a"], "connector": "redis-1"},
        {"prefix": "a"},
        {"level": "INFO"},
        {"url": url},
        {CANARY: CANARY},
        None,
    ]
    async with client_of(server) as client:
        for headers in (BEARER, {}):
            for path, methods in {**document["paths"], "/": {"get": {}}, "/openapi.json": {"get": {}}}.items():
                real = path.replace("{name}", "redis-1").replace("{logger}", "lmcache_connect")
                for method in methods:
                    if real.endswith("/close"):
                        continue  # at the end
                    for body in bodies if method != "get" else [None]:
                        answer = await client.request(
                            method, real, headers=headers, json=body, params={"key": "a", "connector": "redis-1"}
                        )
                        assert answer.status_code != 500, (method, real)
                        found.append(answer.text + str(answer.headers))
        found.append((await client.post("/vllm/connectors/redis-1/close", headers=BEARER)).text)
        found.append((await client.get("/status")).text)
    return found


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.asyncio
async def test_a_canary_is_nowhere(
    is_right: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    local_cpu_backend: LocalCPUBackend,
) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_API_TOKEN", TOKEN)
    monkeypatch.setenv("A_SECRET_OF_THE_ENVIRONMENT", CANARY)
    with ValkeyServer(password=CANARY if is_right else "another") as store, caplog.at_level(logging.DEBUG):
        url = f"redis://:{CANARY}@127.0.0.1:{store.port}?max_value_bytes=1048576"
        monkeypatch.setenv("LMCACHE_CONNECT_URL", url)
        config = ConnectorConfig.load(extra_config=EXTRA, announce_interval=0.2, retries=0)
        async with ConnectorManager(None, None, local_cpu_backend, config) as manager:
            connector = manager.create_connector()
            server = InternalAPIServer(manager, APIServerConfig.load(metrics_port=0, protect="all"))
            async with server:
                found = await everything(server, url)
                if is_right:
                    assert manager.announcer is not None
                    await manager.recreate(connector)
                    await connector.ping()
                    await manager.announcer.announce()
                    found += [document.decode() for document in await connector.announced()]
                    assert "redis-1" in found[-1]
                found.append(repr(server) + repr(server.config) + repr(manager))
    records = [record.getMessage() + str(vars(record)) for record in caplog.records]
    assert len(found) > 60
    assert records
    # What the test itself sends may come back in nothing, and the client's own log names what it asked for.
    ours = [text for text in records if "httpx" not in text and "httpcore" not in text]
    assert [text for text in found if CANARY in text] == []
    assert [text for text in ours if CANARY in text] == []
