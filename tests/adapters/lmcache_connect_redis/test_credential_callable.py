"""When a callable is asked for a credential, who waits for it, and what serves where it fails."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lmcache_connect import AuthenticationError
from lmcache_connect.errors import ConnectorClosedError
from lmcache_connect.outside import Lane
from lmcache_connect_redis.credentials.credential_callable import CredentialCallable
from lmcache_connect_redis.protocol.credential import Credential

from .scripted_login import ScriptedLogin

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def asking(call: Callable[[], Any], seconds: float = 5.0) -> AsyncIterator[CredentialCallable]:
    """A source of credentials."""
    source = CredentialCallable("redis://store", call, seconds, Lane("a store"))
    try:
        yield source
    finally:
        source.close()


@pytest.fixture
def hanging() -> Iterator[Callable[[], Any]]:
    """A callable that hangs until the test is over."""
    over = threading.Event()
    yield lambda: over.wait(30)
    over.set()


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Waits for a condition."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        await asyncio.sleep(0.005)


async def secret(source: CredentialCallable) -> str:
    return (await source.current()).secret


async def test_it_is_asked_once_for_all_that_come_meanwhile_and_not_again_without_an_expiry() -> None:
    script = ScriptedLogin(("u", "p1"))
    async with asking(script) as source:
        assert {await each for each in [asyncio.create_task(secret(source)) for _ in range(20)]} == {"p1"}
        assert await secret(source) == "p1"
        assert script.calls == 1


async def test_it_is_asked_ahead_of_the_expiry_though_nobody_waits() -> None:
    script = ScriptedLogin(("u", "p1", 0.8), ("u", "p2", 900))
    async with asking(script) as source:
        first = await source.current()
        latest = source.new_latest()
        await until(lambda: latest.credential is not first)
        assert script.times[1] - script.times[0] < 0.8
        assert await secret(source) == "p2"


async def test_an_answer_that_came_after_its_credential_had_expired_is_a_failure_with_a_pause() -> None:
    script = ScriptedLogin(("u", "p1", 1e-6))
    async with asking(script) as source:
        for _ in range(3):
            with pytest.raises(AuthenticationError, match="took longer to answer than its credential is good for"):
                await source.current()
        assert script.calls == 1


async def test_a_credential_that_is_returned_again_lets_connections_stay_logged_in() -> None:
    script = ScriptedLogin(("u", "p1", 0.4), ("u", "p1", 900))
    async with asking(script) as source:
        first = await source.current()
        await until(lambda: script.calls == 2)
        await asyncio.sleep(0.2)  # beyond the first expiry
        assert await source.current() is first
        assert source.new_latest().credential is first
        assert script.calls == 2


async def test_a_credential_serves_as_long_as_it_is_good_where_no_other_one_comes() -> None:
    script = ScriptedLogin(("u", "p1", 1.2), OSError("no route"))
    async with asking(script) as source:
        began = time.monotonic()
        await source.current()
        await until(lambda: script.calls >= 2)
        while time.monotonic() < began + 1.1:
            assert await secret(source) == "p1"
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        with pytest.raises(AuthenticationError, match=r"no credentials: the callable of \?credentials= raised OSError"):
            await source.current()
        script.answers = [("u", "p2")]
        await until(lambda: time.monotonic() > script.times[-1] + 2)
        assert await secret(source) == "p2"


async def test_one_that_fails_is_asked_again_after_a_pause_that_grows() -> None:
    script = ScriptedLogin(ValueError("hunter2"))
    async with asking(script) as source:
        while script.calls < 4:
            with pytest.raises(AuthenticationError, match="ValueError") as caught:
                await source.current()
            assert "hunter2" not in str(caught.value)
            assert caught.value.__cause__ is None
            await asyncio.sleep(0.01)
    assert script.pauses_are_at_least(0.25, 0.5, 1.0)


@pytest.mark.parametrize("raised", [SystemExit(1), GeneratorExit(), asyncio.CancelledError()])
async def test_an_attempt_to_end_the_process_is_an_authentication_error(raised: BaseException) -> None:
    async with asking(ScriptedLogin(raised)) as source:
        with pytest.raises(AuthenticationError, match="raised ConnectorFailureError"):
            await source.current()


async def test_a_wrong_answer_is_told_without_showing_it() -> None:
    async with asking(ScriptedLogin("hunter2")) as source:
        with pytest.raises(AuthenticationError, match="is wrong: it returned a str; expected") as caught:
            await source.current()
    assert "hunter2" not in str(caught.value)


async def test_one_that_hangs_ends_at_its_deadline_and_is_left_behind(hanging: Callable[[], Any]) -> None:
    script = ScriptedLogin(hanging, ("u", "p1"))
    async with asking(script, seconds=0.1) as source:
        with pytest.raises(AuthenticationError, match=r"did not answer within 0\.1 s"):
            await source.current()
        await asyncio.sleep(0.3)
        assert await secret(source) == "p1"


async def test_where_two_hang_no_third_is_begun(hanging: Callable[[], Any]) -> None:
    script = ScriptedLogin(hanging)
    async with asking(script, seconds=0.05) as source:
        said = ""
        ends = time.monotonic() + 5
        while "still hang" not in said:
            assert time.monotonic() < ends
            with pytest.raises(AuthenticationError) as caught:
                await source.current()
            said = str(caught.value)
            await asyncio.sleep(0.02)
        assert script.calls == 2


async def test_a_caller_that_leaves_leaves_the_question_to_the_others() -> None:
    go_on = threading.Event()

    def slow() -> tuple[str, str]:
        go_on.wait(5)
        return "u", "p1"

    script = ScriptedLogin(slow)
    async with asking(script) as source:
        leaving, staying = (asyncio.create_task(secret(source)) for _ in range(2))
        await until(lambda: script.calls)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(leaving, 0.5)
        go_on.set()
        assert await staying == "p1"
        assert script.calls == 1


async def test_a_coroutine_runs_on_an_event_loop_of_its_own_in_another_thread() -> None:
    ran: list[tuple[object, int]] = []

    async def answer() -> tuple[str, str]:
        await asyncio.sleep(0)
        ran.append((asyncio.get_running_loop(), threading.get_ident()))
        return "u", "p1"

    async with asking(answer) as source:
        assert await secret(source) == "p1"
    [(loop, thread)] = ran
    assert loop is not asyncio.get_running_loop()
    assert thread != threading.get_ident()


async def test_a_coroutine_that_hangs_is_cancelled_at_the_deadline() -> None:
    ended = threading.Event()

    async def answer() -> object:
        try:
            return await asyncio.Event().wait()
        finally:
            ended.set()

    async with asking(answer, seconds=0.1) as source:
        with pytest.raises(AuthenticationError, match=r"did not answer within|raised TimeoutError"):
            await source.current()
        await until(ended.is_set)


async def test_closing_ends_who_waits(hanging: Callable[[], Any]) -> None:
    async with asking(hanging) as source:
        waiting = asyncio.create_task(source.current())
        await asyncio.sleep(0.01)
        source.close()
        with pytest.raises(ConnectorClosedError, match="the credentials of redis://store"):
            await asyncio.wait_for(waiting, 1)


async def test_a_closed_one_asks_no_more() -> None:
    script = ScriptedLogin(("u", "p1", 0.3), ("u", "p2", 0.3))
    async with asking(script) as source:
        await source.current()
        source.close()
    await asyncio.sleep(0.5)
    assert script.calls == 1


# ---------------------------------------------------------------------------------------------- after a refusal


async def refused(source: CredentialCallable) -> str | None:
    """The password to try after that at hand was refused."""
    first = await source.current()
    others = await source.after_refusal(first)
    return next((other.secret for other in others if other is not first), None)


class TakingServer:
    """A server that takes some passwords."""

    def __init__(self, source: CredentialCallable, *takes: str) -> None:
        self._source = source
        self.takes = {*takes}
        self.latest = source.new_latest()
        self.tried: list[str] = []

    async def _open(self, credential: Credential) -> str:
        self.tried.append(credential.secret)
        if credential.secret not in self.takes:
            raise AuthenticationError("redis://store", "WRONGPASS")
        return credential.secret

    async def log_in(self) -> str:
        """The password that a new connection is logged in with."""
        return await self._source.log_in(self._open, self.latest)

    @property
    def wanted(self) -> str:
        """The password that open connections are to be logged in with."""
        return self.latest.credential.secret


async def test_after_a_refusal_it_is_asked_at_once() -> None:
    script = ScriptedLogin(("u", "p1"), ("u", "p2"))
    async with asking(script) as source:
        assert await secret(source) == "p1"
        assert await refused(source) == "p2"
        assert await secret(source) == "p2"
        assert script.calls == 2


async def test_connections_that_were_refused_together_ask_once() -> None:
    script = ScriptedLogin(("u", "p1"), ("u", "p2"))
    async with asking(script) as source:
        old = await source.current()
        others = await asyncio.gather(*(source.after_refusal(old) for _ in range(8)))
        assert [found[0].secret for found in others] == ["p2"] * 8
        assert script.calls == 2


async def test_a_refused_one_that_is_returned_again_is_asked_about_once_a_pause() -> None:
    script = ScriptedLogin(("u", "p1"))
    async with asking(script) as source:
        while script.calls < 5:
            assert await refused(source) is None
            await asyncio.sleep(0.01)
    assert script.pauses_are_at_least(0, 0.25, 0.5, 1.0)


async def test_the_one_before_serves_on_where_the_new_one_is_refused() -> None:
    script = ScriptedLogin(("u", "p1", 4), ("u", "p2", 900))
    async with asking(script) as source:
        server = TakingServer(source, "p1", "p3")
        assert await server.log_in() == "p1"
        await until(lambda: server.wanted == "p2")
        assert await server.log_in() == "p1"
        assert server.wanted == "p1"  # no open connection logs in with the refused one
        calls = script.calls
        await until(lambda: script.calls > calls)  # though nobody waits
        assert server.wanted == "p1"
        script.answers = [("u", "p3", 900)]
        await until(lambda: server.wanted == "p3")
        assert await server.log_in() == "p3"


async def test_open_connections_try_a_refused_one_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmcache_connect_redis.protocol.credential._REST_SECONDS", 0.05)
    async with asking(ScriptedLogin(("u", "p1", 900), ("u", "p2", 900))) as source:
        server, another = TakingServer(source, "p1"), TakingServer(source, "p2")
        assert await server.log_in() == "p1"
        assert await another.log_in() == "p2"
        assert await server.log_in() == "p1"
        assert another.wanted == "p2"
        await until(lambda: server.wanted == "p2")


async def test_servers_that_are_changed_one_after_the_other_take_what_they_know() -> None:
    script = ScriptedLogin(("u", "p1", 900))
    async with asking(script) as source:
        servers = [TakingServer(source, "p1") for _ in range(3)]
        for number in range(1, 4):
            assert [await server.log_in() for server in servers] == [f"p{number}"] * 3
            script.answers = [("u", f"p{number + 1}", 900)]
            for server in servers:
                server.takes = {f"p{number + 1}"}
                assert {await each.log_in() for each in servers for _ in range(2)} <= {f"p{number}", f"p{number + 1}"}
                assert [each.wanted in each.takes for each in servers] == [True] * 3


async def test_a_server_that_is_changed_later_than_the_callable_is_logged_in_with_what_it_takes() -> None:
    script = ScriptedLogin(("u", "p1"))
    async with asking(script) as source:
        server = TakingServer(source, "p1")
        assert await server.log_in() == "p1"
        script.answers = [("u", "p2")]
        server.takes = set()
        with pytest.raises(AuthenticationError):
            await server.log_in()
        server.takes = {"p1"}
        assert await server.log_in() == "p1"
        server.takes = {"p2"}
        assert await server.log_in() == "p2"


async def test_one_that_no_server_has_taken_does_not_take_the_place_of_the_one_before() -> None:
    script = ScriptedLogin(("u", "p1", 900), ("u", "p2", 900), ("u", "p3", 900))
    async with asking(script) as source:
        server = TakingServer(source, "p1")
        assert await server.log_in() == "p1"
        server.takes = set()
        with pytest.raises(AuthenticationError):
            await server.log_in()
        assert server.tried[1:] == ["p1", "p2", "p3"]
        server.takes = {"p1"}
        assert await server.log_in() == "p1"


async def test_nobody_asks_in_the_background_where_no_credential_serves() -> None:
    script = ScriptedLogin(("u", "p1", 900), ("u", "p2", 900))
    async with asking(script) as source:
        server = TakingServer(source)
        with pytest.raises(AuthenticationError):
            await server.log_in()
        assert server.tried == ["p1", "p2"]
        calls = script.calls
        await asyncio.sleep(0.4)
        assert script.calls == calls  # nobody wants to know


async def test_a_login_ends_after_some_credentials_though_the_callable_has_ever_new_ones() -> None:
    script = ScriptedLogin(*(("u", f"p{number}", 900) for number in range(100)))
    tried: list[str] = []

    async def open_connection(credential: Credential) -> None:
        tried.append(credential.secret)
        raise AuthenticationError("redis://store", "WRONGPASS")

    async with asking(script) as source:
        with pytest.raises(AuthenticationError, match="WRONGPASS"):
            await source.log_in(open_connection)
    assert tried == ["p0", "p1", "p2"]


async def test_one_that_was_refused_and_then_taken_counts_as_good_again() -> None:
    script = ScriptedLogin(("u", "p1", 900))
    is_ready = False

    async def open_connection(credential: Credential) -> str:
        if not is_ready:
            raise AuthenticationError("redis://store", "WRONGPASS")
        return credential.secret

    async with asking(script) as source:
        with pytest.raises(AuthenticationError):
            await source.log_in(open_connection)
        is_ready = True
        assert await source.log_in(open_connection) == "p1"
        calls = script.calls
        assert await refused(source) is None  # asked at once, as for the first time
        assert script.calls == calls + 1
