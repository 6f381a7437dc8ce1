"""One secret through every door; it is searched for in everything that leaves."""

from __future__ import annotations

import base64
import json
import logging
import pickle  # noqa: TID251  # as a pool of processes does with an error
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, quote_plus

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LMCacheConnectError, LocalCPUBackend, MemoryObj
from lmcache_connect.cli.main import main
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer
from lmcache_connect.testing import ValkeyServer

from ..internal_api_server.conftest import client_of
from . import peers
from .peers import REDIS, listening, s3_answer

STRONG: Final = "c4nary/4f9a+Zq8'w\"x"
WEAK: Final = "qzxj"
BOTH: Final = pytest.mark.parametrize("secret", [STRONG, WEAK], ids=["long", "short"])
TOKEN: Final = "the-token-of-the-API-0123"
PLACE: Final = {"module_path": "tests.secrets.peers", "class_name": "Talkative"}
QUICK: Final[dict[str, Any]] = {"retries": 0, "operation_timeout": 2.0}


def forms(secret: str) -> set[str]:
    """How the secret may be written, and parts of it."""
    found = {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    if len(secret) > 8:
        core = base64.b64encode(secret.encode()).decode()[:12]
        found |= {core, secret[:8], secret[4:12]}
    return found


class Leak:
    """Everything that has left, and whether a secret is in it."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.texts: list[str] = []

    def add(self, *texts: str) -> None:
        self.texts += texts

    def add_error(self, error: BaseException) -> None:
        """All that an error tells: its texts, its fields, its twin in another process, and what is behind it."""
        seen: list[BaseException] = [error]
        for link in seen:
            self.add(str(link), repr(link), repr(vars(link)), repr(link.args), *getattr(link, "__notes__", ()))
            seen += [other for other in (link.__cause__, link.__context__) if other is not None and other not in seen]
        self.add("".join(traceback.format_exception(error)))
        twin = pickle.loads(pickle.dumps(error))
        self.add(str(twin), repr(vars(twin)))

    def check(self, secret: str) -> None:
        records = [r for r in self._caplog.records if not r.name.startswith(("httpx", "httpcore", "asyncio"))]
        for record in records:
            self.add(record.getMessage(), str(vars(record)))
        for form in forms(secret):
            assert [text for text in self.texts if form in text] == []


@pytest.fixture
def leak(caplog: pytest.LogCaptureFixture) -> Leak:
    caplog.set_level(logging.DEBUG)
    return Leak(caplog)


@asynccontextmanager
async def managed(
    leak: Leak, backend: LocalCPUBackend, url: str, extra: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[ConnectorManager]:
    """A manager, with the answers of its internal API, and its errors in every operation, added to `leak`."""
    config = ConnectorConfig.load(**{**QUICK, **settings}, extra_config=extra or {})
    async with ConnectorManager(url, None, backend, config) as manager:
        try:
            connector = await manager.open_connector()
        except LMCacheConnectError as error:
            leak.add_error(error)
        else:
            chunk = backend.allocate((64,), "uint8")
            assert chunk is not None
            with chunk:
                calls: list[Callable[[], Awaitable[object]]] = [
                    connector.ping,
                    lambda: connector.get("a"),
                    lambda: connector.exists("a"),
                    lambda: connector.put("a", chunk),
                    connector.list,
                    lambda: connector.batched_get(["a", "b"]),
                ]
                for call in calls:
                    try:
                        found = await call()
                        for each in found if isinstance(found, list) else [found]:
                            if isinstance(each, MemoryObj):
                                each.ref_count_down()
                    except (TimeoutError, LMCacheConnectError) as error:
                        leak.add_error(error)
        async with InternalAPIServer(manager, APIServerConfig.load(token=TOKEN)) as server, client_of(server) as client:
            for path in ("/status", "/config", "/metrics", "/tasks", "/threads", "/health/ready", "/vllm/connectors"):
                answer = await client.get(path, headers={"authorization": f"Bearer {TOKEN}"})
                leak.add(answer.text, str(answer.headers))
            document = manager.announcer.describe().encode().decode() if manager.announcer is not None else ""
            leak.add(document, repr(manager), repr(manager.plugins), repr(config), str(config.shown()))
        yield manager


@BOTH
@pytest.mark.parametrize("how", REDIS)
@pytest.mark.parametrize("door", ["url", "file", "environment", "callable"])
@pytest.mark.asyncio
async def test_a_redis_server_that_repeats_the_password_makes_it_seen_nowhere(
    secret: str,
    how: str,
    door: str,
    leak: Leak,
    local_cpu_backend: LocalCPUBackend,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    async with listening(REDIS[how]) as port:
        if door == "url":
            url = f"redis://somebody:{quote(secret, safe='')}@127.0.0.1:{port}"
        elif door == "file":
            (tmp_path / "word").write_text(secret)
            url = f"redis://somebody@127.0.0.1:{port}?password_file={tmp_path / 'word'}"
        elif door == "callable":
            monkeypatch.setattr(peers, "login", lambda: ("somebody", secret, 900), raising=False)
            monkeypatch.setenv("LMCACHE_CONNECT_ALLOWED_MODULES", f'["{peers.__name__}"]')
            url = f"redis://127.0.0.1:{port}?credentials={peers.__name__}:login"
        else:
            monkeypatch.setenv("SOME_WORD", secret)
            url = f"redis://somebody@127.0.0.1:{port}?password_env=SOME_WORD"
        async with managed(leak, local_cpu_backend, url):
            assert len(leak.texts) > 20
    leak.check(secret)


@BOTH
@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.asyncio
async def test_a_real_server_that_knows_or_refuses_the_password_makes_it_seen_nowhere(
    secret: str, is_right: bool, leak: Leak, local_cpu_backend: LocalCPUBackend
) -> None:
    with ValkeyServer(password=WEAK if is_right else "another") as store:
        word = WEAK if is_right else secret
        async with managed(leak, local_cpu_backend, f"redis://:{quote(word, safe='')}@127.0.0.1:{store.port}"):
            assert len(leak.texts) > 10
    leak.check(word)


@BOTH
@pytest.mark.parametrize("how", [str, quote, repr, lambda text: text[:9], lambda text: f"{text}{text}"])
@pytest.mark.parametrize("door", ["chain", "options"])
@pytest.mark.asyncio
async def test_an_s3_server_that_repeats_the_session_token_makes_it_seen_nowhere(
    secret: str,
    how: Callable[[str], str],
    door: str,
    leak: Leak,
    local_cpu_backend: LocalCPUBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("botocore")
    word = secret if how is not repr else secret.replace("'", "")
    async with listening(s3_answer(word, how)) as port:
        url = f"s3://bucket/p?endpoint=http://127.0.0.1:{port}&region=eu-1"
        if door == "chain":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"other{word}")
            monkeypatch.setenv("AWS_SESSION_TOKEN", word)
        else:
            encoded = quote(word, safe="")
            url += f"&access_key=AKIAEXAMPLE&secret_key=other{encoded}&session_token={encoded}"
        async with managed(leak, local_cpu_backend, url):
            assert len(leak.texts) > 20
    leak.check(word)


@BOTH
@pytest.mark.parametrize("fails_at_once", [True, False])
@pytest.mark.asyncio
async def test_a_plug_in_that_tells_its_settings_makes_their_secrets_seen_nowhere(
    secret: str, fails_at_once: bool, leak: Leak, local_cpu_backend: LocalCPUBackend
) -> None:
    own = {"password": secret, "nested": {"auth_token": secret}, "url": f"http://u:{quote(secret, safe='')}@h"}
    extra: dict[str, Any] = {f"remote_storage_plugin.mine.{name}": value for name, value in {**PLACE, **own}.items()}
    extra["remote_storage_plugin.mine.fails_at_once"] = fails_at_once
    async with managed(leak, local_cpu_backend, "plugin://mine", extra, remote_storage_plugins=("mine",)):
        assert any("TalkativeError" in text for text in leak.texts)
    leak.check(secret)


@BOTH
def test_the_command_shows_no_secret(
    secret: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LMCACHE_CONNECT_URL", "LMCACHE_CONNECT_EXTRA_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    extra = {f"remote_storage_plugin.mine.{name}": value for name, value in {**PLACE, "password": secret}.items()}
    monkeypatch.setenv(
        "LMCACHE_CONNECT_EXTRA_CONFIG", json.dumps({**extra, "remote_storage_plugin.mine.fails_at_once": 1})
    )
    monkeypatch.setenv("LMCACHE_CONNECT_REMOTE_STORAGE_PLUGINS", '["mine"]')
    monkeypatch.setenv("LMCACHE_CONNECT_RETRIES", "0")
    encoded = quote(secret, safe="")
    for arguments in (
        ("ping", "plugin://mine"),
        ("ping", "plugin://mine", "--json"),
        ("ping", f"redis://u:{encoded}@127.0.0.1:1"),
        ("ping", f"redis://127.0.0.1:1,password={encoded},ssl=True"),
        ("ping", f"redis://127.0.0.1&password={encoded}", "--json"),
        ("ping", f"nosuch://u:{encoded}@h?sig={encoded}"),
        ("ping", f"redis://u:{encoded}@h", f"redis://u:{encoded}@h"),
        ("plugins",),
        ("schemes", "--json"),
        ("schemes", f"redis://u:{encoded}@h"),
        ("schemes", f"nosuch://u:{encoded}@h"),
        ("ping", "--count", "1", f"redis://u:{encoded}@127.0.0.1:1"),
        ("ping", "--count", "1", "plugin://mine"),
        ("doctor",),
        ("doctor", "--json", f"redis://u:{encoded}@h?sig={encoded}"),
        ("doctor", "plugin://mine"),
        ("config", "show", f"redis://u:{encoded}@h"),
        ("config", "show", "--json"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        shown = "".join(capsys.readouterr())
        assert shown
        for form in forms(secret):
            assert form not in shown, arguments
