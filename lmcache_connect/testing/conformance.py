"""`ConnectorConformance`: the rules that every connector must keep, as tests that an author can run.

    from lmcache_connect.testing.conformance import Capabilities, ConnectorConformance


    class TestMyConnector(ConnectorConformance):
        url = "mystore://localhost"
        adapters = (MyAdapter,)
        capabilities = Capabilities(remove=True, list=True, ping=True)

Each rule is one test method, and its docstring says what it is for. The suite needs pytest-asyncio, in any
configuration. A rule can also be run by hand:

    async with suite.opened() as subject:
        await suite.test_get_of_a_missing_key_is_none(subject)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import ClassVar
from urllib.parse import quote

from ..config import ConnectorConfig
from ..contract import ConnectorAdapter
from ..errors import MissingExtraError
from ..managed import ManagedConnector
from ..manager import ConnectorManager
from ..memory import LocalCPUBackend
from ..metadata import CacheMetadata
from .breakable_store import BreakableStore
from .rules.after_the_end import AfterTheEndRules
from .rules.batch import BatchRules
from .rules.caller_memory import CallerMemoryRules
from .rules.cancellation import CancellationRules
from .rules.chunk import ChunkRules
from .rules.concurrency import ConcurrencyRules
from .rules.damage import DamageRules
from .rules.failure import FailureRules
from .rules.lifetime import LifetimeRules
from .rules.loops import LoopRules
from .rules.opening import OpeningRules
from .rules.size import SizeRules
from .rules.store import StoreRules
from .rules.wire import WireRules
from .servers.fault_proxy import FaultProxy
from .subject import Capabilities, Subject, check_arena_balance, within

try:
    import pytest
    import pytest_asyncio
except ImportError as missing:
    raise MissingExtraError("the conformance suite", "pytest_asyncio", "testing") from missing


class ConnectorConformance(
    ChunkRules,
    SizeRules,
    BatchRules,
    StoreRules,
    DamageRules,
    ConcurrencyRules,
    CancellationRules,
    CallerMemoryRules,
    AfterTheEndRules,
    FailureRules,
    WireRules,
    LoopRules,
    OpeningRules,
    LifetimeRules,
):
    """Subclass it under a name that pytest collects, and set the attributes that say what is tested.

    Every test has a manager, an arena and a connector of its own. After each test the connector must close in time, the
    arena must be empty, and no asyncio task may be left. Where the attributes are not enough, override
    `make_connector` or `config`, or set attributes on `self` in an autouse fixture: each test has its own instance.
    """

    pytestmark = pytest.mark.asyncio(loop_scope="function")

    url: str = ""
    """The URL of the store to test, which need not be empty. The subclass may have a fixture `store_url` instead."""

    adapters: Sequence[ConnectorAdapter | type[ConnectorAdapter]] = ()
    """Registered with each test's manager. They replace built-in and installed adapters for the same scheme."""

    capabilities: Capabilities = Capabilities()
    """What the connector claims to do. What it does not claim is skipped."""

    metadata: CacheMetadata | None = None
    """The model's cache geometry, for a connector that needs it. The chunks of the tests have other shapes too."""

    store_address: str = ""
    """`host:port` of the store, as it stands in the URL, where the store is a server that is reached over TCP.

    Rules for a store that fails then reach it through a fault proxy; see `through`. A store that is not a server, or a
    suite that knows a better way, overrides `break_store` and `mend_store`. Without either, these rules are skipped.
    """

    arena_bytes: ClassVar[int] = 128 << 20
    """The size of each test's arena. Only the part that a test touches takes real memory."""

    limit: float = 30.0
    """Seconds that one rule may take."""

    ends_within: float = 5.0
    """Seconds within which a call must end that was cancelled, or whose reason to wait is gone."""

    closes_within: float = 1.5
    """Seconds that closing the connector may take."""

    fails_within: float = 2.0
    """Seconds within which a call must fail whose store refuses every connection."""

    # ------------------------------------------------------------------------------------- for authors to override

    async def make_connector(self, manager: ConnectorManager) -> ManagedConnector:
        """A new connector to test. `manager` has `adapters`, `config()` and the arena of the test, and closes it."""
        return await manager.open_connector(self.url)

    def config(self) -> ConnectorConfig:
        """The manager's settings. Operations and `close` should end within seconds, so that the suite is fast."""
        return ConnectorConfig(operation_timeout=5.0, allocate_timeout=2.0, close_grace=2.0, breaker_reset=0.1)

    async def read_raw(self, key: str) -> bytes | None:
        """The whole record that the store holds under `key`, or None. Reads it without the connector.

        Needed for the capability `raw`, as is `write_raw`.
        """
        raise NotImplementedError(f"{type(self).__name__} claims the capability 'raw' and has no read_raw()")

    async def write_raw(self, key: str, data: bytes) -> None:
        """Replaces the record that the store holds under `key`, without the connector."""
        raise NotImplementedError(f"{type(self).__name__} claims the capability 'raw' and has no write_raw()")

    def ttl_url(self, seconds: float) -> str:
        """A URL of the same store on which chunks expire after `seconds`. Needed for the capability `ttl`."""
        return f"{self.url}{'&' if '?' in self.url else '?'}ttl={seconds}"

    async def break_store(self) -> None:
        """Lets the store refuse everything, also what is under way, until `mend_store`.

        Override both where the store is not a server with a `store_address`: make a folder unreadable, close a
        database, or let the test's stand-in for the store raise what its driver raises.
        """
        raise NotImplementedError(f"{type(self).__name__} has no break_store()")

    async def mend_store(self) -> None:
        """Lets the store work again, with all that it held."""
        raise NotImplementedError(f"{type(self).__name__} has break_store() and no mend_store()")

    def through(self, address: str) -> str:
        """The URL of the same store where `address`, a `host:port`, stands for `store_address`."""
        for form in (str, partial(quote, safe="")):  # in an option it is percent-encoded
            if form(self.store_address) in self.url:
                return self.url.replace(form(self.store_address), form(address), 1)
        raise AssertionError(
            f"store_address is {self.store_address!r}, which does not stand in the URL; set it to the URL's host:port, "
            "or override through()"
        )

    # -------------------------------------------------------------------------------------------------- fixtures

    @pytest.fixture
    def store_url(self) -> str:
        """The URL to test: `url`. Override it where another fixture, such as `valkey_url`, has the URL."""
        return self.url

    @pytest_asyncio.fixture(loop_scope="function")
    async def subject(self, store_url: str) -> AsyncIterator[Subject]:
        """The connector under test. The checks that follow every rule run after the test."""
        self.url = store_url
        async with self.opened() as subject:
            yield subject

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Subject]:
        """A subject on the running loop, for one rule. The checks that follow every rule run at its end.

        Raises:
            AssertionError: the connector did not close in time, or left tasks or chunks behind. This is not checked
                after a rule that failed, since it may have left them behind itself.
        """
        before = asyncio.all_tasks()
        backend = LocalCPUBackend(self.arena_bytes, warm_ahead=0)
        # Trusted, or a private copy and a task of its own would hide what the connector does wrong.
        config = self.config().model_copy(update={"trusted_modules": ("*",)})
        manager = ConnectorManager(local_cpu_backend=backend, config=config, metadata=self.metadata)
        try:
            for adapter in self.adapters:
                manager.register(adapter, replace=True)
            subject = Subject(
                manager,
                await within(self.limit, self.make_connector(manager), "make_connector()"),
                backend,
                self.capabilities,
                read_raw=self.read_raw,
                write_raw=self.write_raw,
                another=lambda: self.make_connector(manager),
                ttl_url=self.ttl_url,
                breakable=lambda by_proxy: self._breakable(manager, by_proxy),
            )
            try:
                yield subject
            except BaseException:
                subject.has_failed = True
                raise
            finally:
                await self._close(subject)
        finally:
            await within(self.limit, manager.close(), "closing the manager")
            backend.close()
        if not subject.has_failed:
            await _check_tasks(before, self.ends_within / 10)
            check_arena_balance(backend)

    @asynccontextmanager
    async def _breakable(self, manager: ConnectorManager, by_proxy: bool) -> AsyncIterator[BreakableStore]:
        by_hand = type(self).break_store is not ConnectorConformance.break_store
        if not self.store_address and (by_proxy or not by_hand):
            pytest.skip(
                "the suite cannot break its store: set store_address"
                + (", the host:port of a server" if by_proxy else ", or override break_store() and mend_store()")
            )
        async with AsyncExitStack() as stack:
            proxy = None
            url = direct = self.url
            if self.store_address and (by_proxy or not by_hand):
                host, _, port = self.store_address.rpartition(":")
                proxy = await asyncio.to_thread(FaultProxy(host.strip("[]"), int(port)).__enter__)
                stack.push_async_callback(asyncio.to_thread, proxy.stop)
                url = self.through(f"{proxy.host}:{proxy.port}")

            async def make() -> ManagedConnector:
                self.url = url
                try:
                    return await self.make_connector(manager)
                finally:
                    self.url = direct

            store = BreakableStore(await make(), proxy, self.break_store, self.mend_store, make)
            stack.push_async_callback(store.mend)
            yield store
            await within(self.limit, store.connector.close(), "close() of a connector whose store had failed")

    async def _close(self, subject: Subject) -> None:
        if not subject.has_failed:
            await within(self.limit, subject.clean(), "removing the keys of the test")
        started = time.monotonic()
        await within(self.limit, subject.connector.close(), "close()")
        took = time.monotonic() - started
        assert subject.has_failed or took < self.closes_within, (
            f"close() of an idle connector took {took:.2f} s; expected under {self.closes_within} s"
        )


async def _check_tasks(before: set[asyncio.Task[object]], grace: float) -> None:
    def left_over() -> set[asyncio.Task[object]]:
        return asyncio.all_tasks() - before - {current for current in (asyncio.current_task(),) if current is not None}

    if left := left_over():
        await asyncio.wait(left, timeout=grace)  # what was cancelled needs an iteration of the loop or two
        left = left_over()
    names = sorted(repr(task.get_coro()) for task in left)
    assert not names, f"the connector was closed and left tasks running: {'; '.join(names)}"


__all__ = ["Capabilities", "ConnectorConformance", "Subject"]
