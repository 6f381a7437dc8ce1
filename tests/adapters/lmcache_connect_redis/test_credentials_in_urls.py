"""Which callables a URL may name, and what is said of those that it may not."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, RemoteURL
from lmcache_connect.errors import InvalidOptionError
from lmcache_connect.testing import ValkeyServer

from . import logins
from .scripted_login import ScriptedLogin

pytestmark = pytest.mark.asyncio

PACKAGE = __package__
SCHEMES = pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys", "redis-ring", "hot+redis"])


async def refusal(url: str, allowed: tuple[str, ...] | None) -> str:
    """What is said of a URL, by both ways to make its connector. No secret of it is in that."""
    said: list[str] = []
    async with ConnectorManager(config=ConnectorConfig.load(allowed_modules=allowed)) as manager:
        with pytest.raises(InvalidOptionError) as caught:
            manager.create_connector(url)
        said.append(str(caught.value))
        with pytest.raises(InvalidOptionError) as caught:
            await manager.open_connector(url)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "hunter2" not in said[0]
    return said[0]


@SCHEMES
@pytest.mark.parametrize("allowed", [None, (), ("tests", PACKAGE, f"{PACKAGE}.login")])
async def test_a_url_alone_cannot_name_code(scheme: str, allowed: tuple[str, ...] | None) -> None:
    module = f"{PACKAGE}.never_imported"
    said = await refusal(f"{scheme}://store?credentials={module}:login", allowed)
    assert f"expected a module that the setting allowed_modules names ({', '.join(allowed or ()) or 'none'})" in said
    assert module in said
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("module", "name", "says"),
    [
        (f"{PACKAGE}.no_such_module", "login", "raised ModuleNotFoundError for"),
        (f"{PACKAGE}.logins", "no_such_name", "its module has nothing of this name|raised AttributeError"),
        (f"{PACKAGE}.logins", "NO_CALLABLE", "to be callable, and it is a int"),
    ],
)
async def test_a_callable_that_is_not_there_is_refused_when_the_connector_is_made(
    module: str, name: str, says: str
) -> None:
    said = await refusal(f"redis://store?credentials={module}:{name}", (module,))
    assert any(part in said for part in says.split("|"))
    assert f"{name} in {module}" in said


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://store?credentials=user:hunter2!", "pattern"),
        ("redis://store?credentials=hunter2", "pattern"),
        ("redis://store?credentials=:hunter2", "pattern"),
        ("redis://store?credentials=user:hunter2", "names (none), not user"),
        (f"redis://:hunter2@store?credentials={logins.MODULE}:login", "no password in the URL besides it"),
        (f"redis://somebody@store?credentials={logins.MODULE}:login", "no user in the URL"),
        (f"redis://store?credentials={logins.MODULE}:login&password_env=X", "exclude each other"),
        (f"redis://store?credentials={logins.MODULE}:login&credentials_timeout=0", "credentials_timeout"),
    ],
)
async def test_a_bad_source_is_refused_in_words_that_do_not_show_it(url: str, says: str) -> None:
    assert says in await refusal(url, (logins.MODULE,) if logins.MODULE in url else None)


@pytest.mark.parametrize("name", ["login", "login_async"])
async def test_a_callable_of_an_allowed_module_logs_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_ALLOWED_MODULES", f'["{logins.MODULE}"]')
    with ValkeyServer(password="the-right-one") as server:
        answers: list[Any] = [(None, "the-right-one"), ("default", "the-right-one", 900)]
        for answer in answers:
            logins.answers[name] = ScriptedLogin(answer)
            url = f"redis://{server.host}:{server.port}?credentials={logins.MODULE}:{name}"
            async with ConnectorManager(url) as manager:
                await manager.create_connector().ping()


async def test_a_url_shows_neither_the_callable_nor_what_was_meant_as_a_password() -> None:
    for value in ("myapp.logins:redis", "user:hunter2"):
        assert RemoteURL.parse(f"redis://store?credentials={value}").redacted() == "redis://store?credentials=***"
