"""`ConnectorConformance`: what every connector keeps, as tests that any author can run against their own.

    from lmcache_connect.testing.conformance import Capabilities, ConnectorConformance


    class TestMyConnector(ConnectorConformance):
        url = "mystore://localhost"
        adapters = (MyAdapter,)
        capabilities = Capabilities(remove=True, list=True, ping=True)

Each rule is one test method, and its docstring says what it is for. pytest-asyncio is needed, and no configuration of
it. A rule can also be run by hand:

    async with suite.opened() as subject:
        await suite.test_get_of_a_missing_key_is_none(subject)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

from ..config import ConnectorConfig
from ..contract import ConnectorAdapter
from ..errors import MissingExtraError
from ..managed import ManagedConnector
from ..manager import ConnectorManager
from ..memory import LocalCPUBackend
from ..metadata import CacheMetadata
from .rules.batch import BatchRules
from .rules.chunk import ChunkRules
from .rules.concurrency import ConcurrencyRules
from .rules.lifetime import LifetimeRules
from .rules.store import StoreRules
from .subject import Capabilities, Subject, arena_balance, within

try:
    import pytest
    import pytest_asyncio
except ImportError as missing:
    raise MissingExtraError("the conformance suite", "pytest_asyncio", "testing") from missing


class ConnectorConformance(ChunkRules, BatchRules, StoreRules, ConcurrencyRules, LifetimeRules):
    """Subclass it under a name that pytest collects, and say what is to be tested.

    Every test has a manager, an arena and a connector of its own. After each, the connector must close in time, the
    arena's balance must be zero, and no asyncio task may be left over. Where these are not enough, override
    `make_connector` or `config`, or set attributes on `self` in an autouse fixture: each test has its own instance.
    """

    pytestmark = pytest.mark.asyncio(loop_scope="function")

    url: str = ""
    """The store to test. A fixture `store_url` of the subclass may give it instead. The store need not be empty."""

    adapters: Sequence[ConnectorAdapter | type[ConnectorAdapter]] = ()
    """Registered with each test's manager, in place of built-in and installed ones for the same scheme."""

    capabilities: Capabilities = Capabilities()
    """What the connector claims to do."""

    metadata: CacheMetadata | None = None
    """The model's cache geometry, for a connector that asks for it. The chunks of the tests are of any shape."""

    arena_bytes: ClassVar[int] = 64 << 20
    """The size of each test's arena."""

    limit: float = 30.0
    """Seconds that one rule may take."""

    patience: float = 5.0
    """Seconds that one call may take that was cancelled, or that waited for something which has come about."""

    closes_within: float = 1.5
    """Seconds that closing the connector may take."""

    # ------------------------------------------------------------------------------------------ an author's part

    async def make_connector(self, manager: ConnectorManager) -> ManagedConnector:
        """A new connector to test. `manager` has the `adapters`, `config()` and the test's arena, and closes it."""
        return manager.create_connector(self.url)

    def config(self) -> ConnectorConfig:
        """The manager's settings. Operations and closing should end within seconds, or the suite takes long."""
        return ConnectorConfig(operation_timeout=5.0, allocate_timeout=2.0, close_grace=2.0)

    async def read_raw(self, key: str) -> bytes | None:
        """The whole record that the store holds under `key`, past the connector; None where there is none.

        For the capability `raw`, as is `write_raw`.
        """
        raise NotImplementedError(f"{type(self).__name__} claims the capability 'raw' and has no read_raw()")

    async def write_raw(self, key: str, data: bytes) -> None:
        """Replaces the record that the store holds under `key`, past the connector."""
        raise NotImplementedError(f"{type(self).__name__} claims the capability 'raw' and has no write_raw()")

    def ttl_url(self, seconds: float) -> str:
        """The URL of the same store on which chunks expire after `seconds`: for the capability `ttl`."""
        return f"{self.url}{'&' if '?' in self.url else '?'}ttl={seconds}"

    # -------------------------------------------------------------------------------------------------- fixtures

    @pytest.fixture
    def store_url(self) -> str:
        """The URL to test: `url`. Override it where only a fixture knows, such as `valkey_url`."""
        return self.url

    @pytest_asyncio.fixture(loop_scope="function")
    async def subject(self, store_url: str) -> AsyncIterator[Subject]:
        """The connector under test, with the checks that follow every rule."""
        self.url = store_url
        async with self.opened() as subject:
            yield subject

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Subject]:
        """A subject on the running loop, for one rule; at its end the checks that follow every rule.

        Raises:
            AssertionError: the connector did not close in time, or left tasks or chunks behind. After a rule that
                failed nothing is checked: what it left behind is its failure's.
        """
        before = asyncio.all_tasks()
        backend = LocalCPUBackend(self.arena_bytes)
        manager = ConnectorManager(local_cpu_backend=backend, config=self.config(), metadata=self.metadata)
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
            await _check_tasks(before, self.patience / 10)
            if (problem := arena_balance(backend)) is not None:
                raise AssertionError(problem)

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
        await asyncio.wait(left, timeout=grace)  # what was cancelled needs a turn or two
        left = left_over()
    names = sorted(repr(task.get_coro()) for task in left)
    assert not names, f"the connector was closed and left tasks running: {'; '.join(names)}"


__all__ = ["Capabilities", "ConnectorConformance", "Subject"]
