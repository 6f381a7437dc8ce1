"""`ConnectorManager`: makes connectors from URLs, owns them, and closes them."""

from __future__ import annotations

import asyncio
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final

import anyio.to_thread

from ..checkpoint import checkpointed, nothing
from ..config import ConnectorConfig
from ..contract import ConnectorAdapter
from ..errors import (
    AdapterLoadError,
    ConnectorClosedError,
    InvalidArgumentError,
    InvalidConfigError,
    PluginError,
    SyncCallOnLoopError,
    UnknownSchemeError,
)
from ..foreign import Plugin, PluginTable
from ..loop import LoopOwner
from ..managed import ManagedConnector
from ..memory import ChunkMemory, LocalCPUBackend
from ..metadata import CacheMetadata
from ..observability import JobCounts, StoreMetrics
from ..outside import Lane, hidden_causes
from ..process import this_process
from ..url import RemoteURL
from .announcer import Announcer
from .compat_bridge import install_lmcache_names
from .maker import Made, Maker, tell_if_held
from .plan import Plan
from .registry import AdapterRegistry, default_registry
from .resolving import Resolver
from .roster import Roster
from .unknown_variables import tell_unknown_variables


class ConnectorManager:
    """Makes connectors from URLs and owns them, their event loop and, where it was given none, their memory.

    Use it as `async with`, as `with` from a thread without a loop, or call `open()` and `close()`. Who opens closes:
    the manager closes its connectors in reverse order, then the backend and the loop that it made itself.
    """

    def __init__(
        self,
        url: str | RemoteURL | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        local_cpu_backend: ChunkMemory | None = None,
        config: Any = None,
        metadata: CacheMetadata | None = None,
        plugin_name: str | None = None,
    ) -> None:
        """Connects to nothing yet.

        Args:
            url: what `create_connector` takes by default; None: `config.url`.
            loop: the event loop that connectors run on; None: the running one or, where none runs, one in a thread of
                its own.
            local_cpu_backend: the memory that connectors receive into. It is borrowed. None: the manager makes one of
                `config.max_local_cpu_bytes` when it is first needed.
            config: a `ConnectorConfig`, or a mapping of settings for `ConnectorConfig.load`; None: what the environment
                and the settings file say. Any other object is handed to connectors as it is, and the toolkit's own
                settings are those of the environment and the file.
            metadata: the model's cache geometry, where it is known.
            plugin_name: what connectors of the registry's adapters are told as their plug-in's name.

        Raises:
            InvalidURLError: `url` cannot be understood.
            InvalidConfigError: a setting of the mapping, the environment or the settings file is wrong.
            LMCacheInstalledError: the setting `lmcache_names` is on, and LMCache itself is installed.
        """
        if isinstance(config, Mapping):
            config = ConnectorConfig.load(**{str(name): value for name, value in config.items()})
        self._settings = config if isinstance(config, ConnectorConfig) else ConnectorConfig.load()
        tell_unknown_variables(ConnectorConfig)
        if self._settings.lmcache_names:
            install_lmcache_names()
        self._config = self._settings if config is None else config
        if url is None and self._settings.url is not None:
            url = self._settings.url.get_secret_value()
        self._url = RemoteURL.parse(url) if url is not None else None
        self._metadata = metadata
        self._registry = AdapterRegistry(default_registry)
        self._plugins = PluginTable(self._config, self._settings)
        self._resolver = Resolver(self._registry, self._plugins, self._settings, self._config, plugin_name)
        self._maker = Maker(self._config, self._settings, metadata)
        self._lane = Lane("the manager")
        self._roster = Roster()
        self.job_counts: Final = JobCounts()
        """The counters of the ports of jobs that use this manager's connectors."""
        self._owner = LoopOwner.of(loop) if loop is not None else None
        self._backend = local_cpu_backend
        self._owns_backend = local_cpu_backend is None
        self.announcer: Announcer | None = None
        """Tells the stores that this manager is there, if that is wanted; None where `announce_interval` is 0."""
        if self._settings.announce_interval != 0:
            # By weak reference: it must not keep alive a manager that the application has dropped.
            this = weakref.ref(self)
            self.announcer = Announcer(
                self._settings.announce_interval,
                lambda: manager.connectors if (manager := this()) is not None else (),
                lambda: manager._backend if (manager := this()) is not None else None,
            )
        self._process = this_process()
        self._closing: asyncio.Task[None] | None = None
        self._closed = False

    # ------------------------------------------------------------------------------------------ what there is

    @property
    def settings(self) -> ConnectorConfig:
        """The toolkit's settings for this manager. A URL's options may change some for its connector."""
        return self._settings

    @property
    def registry(self) -> AdapterRegistry:
        """The schemes that this manager knows."""
        return self._registry

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """The plug-ins that the configuration names, in its order, and whether they have loaded."""
        return self._plugins.plugins

    @property
    def owner(self) -> LoopOwner:
        """The owner of the connectors' event loop, found or started on first use."""
        if self._owner is None:
            self._process.check("the connector manager")
            try:
                self._owner = LoopOwner.adopt()
            except RuntimeError:
                self._owner = LoopOwner.start()
        return self._owner

    @property
    def made_owner(self) -> LoopOwner | None:
        """The owner of the connectors' event loop; None where none was found or started yet."""
        return self._owner

    @property
    def local_cpu_backend(self) -> ChunkMemory:
        """The memory that connectors receive into. Where the manager was given none, the first reading makes it.

        `made_backend` looks without making any.
        """
        if self._backend is None:
            self._check_open()
            self._backend = LocalCPUBackend(
                self._settings.max_local_cpu_bytes, metadata=self._metadata, warm_ahead=self._settings.warm_ahead
            )
        return self._backend

    @property
    def made_backend(self) -> ChunkMemory | None:
        """The memory that connectors receive into; None where none was made yet."""
        return self._backend

    @property
    def connectors(self) -> tuple[ManagedConnector, ...]:
        """The live connectors, in the order in which they were made."""
        return self._roster.live

    @property
    def known_connectors(self) -> tuple[ManagedConnector, ...]:
        """The live connectors, and closed ones that the application still holds, in the order of their making."""
        return self._roster.known

    @property
    def collected_metrics(self) -> StoreMetrics:
        """The counts of connectors that were garbage-collected."""
        return self._roster.collected_metrics

    def connector(self, name: str) -> ManagedConnector:
        """The connector, live or closed, that has this name.

        Raises:
            UnknownConnectorError: no connector has it.
        """
        return self._roster.named(name)

    def register(self, adapter: ConnectorAdapter | type[ConnectorAdapter], *, replace: bool = False) -> None:
        """Adds an adapter for this manager alone; see `AdapterRegistry.register`."""
        self._registry.register(adapter, replace=replace)

    # ------------------------------------------------------------------------------------------------- making

    @hidden_causes()
    def create_connector(self, url: str | RemoteURL | None = None) -> ManagedConnector:
        """A new connector for `url`, by default the manager's. It connects on first use. The manager closes it.

        What is used for the first time is imported here, and a class of other people's is made here, for up to the
        setting `import_timeout` each. On an event loop that holds up everything else, and is logged as `loop_held`:
        await `open_connector` there. `open()` and `async with` import in advance, for the manager's own URL.

        Raises:
            InvalidArgumentError: there is no URL.
            InvalidURLError: the URL cannot be understood. Subclasses say that its scheme is not known, or an option.
            AdapterLoadError, PluginError, InvalidConfigError: what answers for the URL cannot be loaded.
            ConnectorContractError: the adapter did not make a connector.
            ConnectorClosedError, ForkedProcessError: the manager is closed, or belongs to the parent process.
        """
        self._check_open()
        remote_url = RemoteURL.parse(url) if url is not None else self._url
        if remote_url is None:
            raise InvalidArgumentError("url", "neither create_connector() nor the manager was given one")
        owner = self.owner
        started, is_foreign = time.monotonic(), bool(self.plugins)
        try:
            plan = self._resolver.plan(remote_url)
            owner.check("the manager's event loop")
            if plan.is_foreign:
                is_foreign = True
                self._resolver.prepare(remote_url)  # imports have a limit of their own
            made = self._maker.make_blocking(plan, owner, self.local_cpu_backend)
        finally:
            if is_foreign:
                tell_if_held(owner, remote_url.label(), started)
        return self._managed(plan, made, owner)

    def _managed(self, plan: Plan, made: Made, owner: LoopOwner) -> ManagedConnector:
        managed = ManagedConnector(*made, self._roster.next_name(plan.url.scheme))
        self._roster.add(managed, plan)
        if self.announcer is not None and managed.support_announcements():
            self.announcer.begin(owner.loop)
        return managed

    @checkpointed(nothing)
    async def open_connector(self, url: str | RemoteURL | None = None) -> ManagedConnector:
        """`create_connector`, with everything imported and made off the event loop.

        Raises:
            LMCacheConnectError: as `create_connector` raises it.
        """
        self._check_open()
        remote_url = RemoteURL.parse(url) if url is not None else self._url
        if remote_url is None:
            raise InvalidArgumentError("url", "neither open_connector() nor the manager was given one")
        owner = self.owner
        with hidden_causes():
            await self._lane.run_in_thread(f"opening {remote_url.label()}", partial(self._resolver.prepare, remote_url))
            plan = self._resolver.plan(remote_url)
            owner.check("the manager's event loop")
            made = await self._maker.make(plan, owner, self.local_cpu_backend)
        self._check_open()
        return self._managed(plan, made, owner)

    @checkpointed(nothing)
    async def recreate(self, connector: ManagedConnector, grace: float | None = None) -> None:
        """Replaces the connector inside one of `known_connectors` by a new one, made from the same plan.

        The object stays the same. Calls from now on reach the new one, and the old one is closed when the calls under
        way have finished, within `grace` seconds. One that was closed is open again. See `ManagedConnector.recreate`.

        Raises:
            UnknownConnectorError: it is another manager's.
            ConnectorClosedError: this manager is closed.
            LMCacheConnectError: as making it raises it; nothing has changed then.
        """
        self._check_open()
        plan = self._roster.plan_of(connector)

        async def make() -> Made:
            self._check_open()  # closing a connector that was closed may have taken a while
            with hidden_causes():
                made = await self._maker.make(plan, self.owner, self.local_cpu_backend)
            self._roster.add_again(connector)
            return made

        await connector.recreate(make, grace)

    # ----------------------------------------------------------------------------------------------- lifetime

    @checkpointed(nothing)
    async def open(self) -> ConnectorManager:
        """Adopts the running loop where none was given, and imports the adapter of the manager's URL in a thread."""
        self._check_open()
        _ = self.owner
        if self._url is None:
            await self._lane.run_in_thread("loading plug-ins", self._plugins.load)
        else:
            try:
                prepare = partial(self._resolver.prepare, self._url)
                await self._lane.run_in_thread(f"opening {self._url.label()}", prepare)
            except (UnknownSchemeError, AdapterLoadError, PluginError, InvalidConfigError):
                pass  # it may still be registered; otherwise create_connector() raises it
        return self

    @checkpointed(nothing)
    async def close(self, grace: float | None = None) -> None:
        """Closes everything that the manager made, connectors first. Idempotent; see `ManagedConnector.close`.

        A caller who is cancelled does not stop the closing; a further call waits for the same end. In a thread without
        an event loop the `with` statement does the same, within the setting `sync_timeout`. In a fork this does nothing
        but mark the manager closed, without a pause: the event loop, the sockets and the threads are the parent's.

        Raises:
            ExceptionGroup: what went wrong while closing, after everything was tried.
        """
        owner = self._begin_closing()
        if self._process.is_forked():
            return  # and without a pause, in which the parent's event loop would run here
        if owner is None:
            await anyio.to_thread.run_sync(self._discard)
            return
        try:
            await owner.run(self._close_on_loop, grace)
        finally:
            if self._closing is None or self._closing.done():
                await owner.close()

    def _begin_closing(self) -> LoopOwner | None:
        """Refuses further calls. Returns the owner of the loop that connectors must be closed on.

        None where there are no connectors, or their loop has ended or belongs to the parent process.
        """
        self._closed = True
        owner = self._owner
        if owner is None or owner.is_closed or self._process.is_forked() or not self._roster.owned:
            return None
        return owner

    def _discard(self) -> None:
        """Closes a manager that has no connector to wait for. Blocks until the loop's own thread has ended."""
        self._closed = True
        if self._process.is_forked():
            return
        if self._owns_backend and self._backend is not None:
            self._backend.close()
        if self._owner is not None:
            self._owner.close_sync()

    async def _close_on_loop(self, grace: float | None) -> None:
        if self._closing is None:
            # A task of its own, so that a caller who is cancelled does not leave half of the connectors open.
            self._closing = asyncio.get_running_loop().create_task(self._close_once(grace))
        await asyncio.shield(self._closing)

    async def _close_once(self, grace: float | None) -> None:
        failures: list[Exception] = []
        if self.announcer is not None:
            await self.announcer.end()
        for connector in reversed(self._roster.owned):
            try:
                await connector.close(grace)
            except Exception as error:
                failures.append(error)
        if self._owns_backend and self._backend is not None:
            self._backend.close()
        if failures:
            raise ExceptionGroup("closing the manager's connectors failed", failures)

    def _check_open(self) -> None:
        self._process.check("the connector manager")
        if self._closed:
            raise ConnectorClosedError("the connector manager")

    async def __aenter__(self) -> ConnectorManager:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __enter__(self) -> ConnectorManager:
        self._check_open()
        if (self._owner is None and _is_in_loop()) or (self._owner is not None and self._owner.is_current()):
            # Leaving would have to wait for the loop that it holds up.
            raise SyncCallOnLoopError("with ConnectorManager()", "use 'async with' there")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        owner = self._begin_closing()
        if owner is None:
            self._discard()
            return
        try:
            owner.run_sync("ConnectorManager.close", self._settings.sync_timeout, self._close_on_loop, None)
        finally:
            owner.close_sync()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_closed", True):  # closed, or never quite made
            return
        if self.connectors and not self._process.is_forked():
            _warn(
                f"{self!r} was never closed: use 'async with', or await close()",
                ResourceWarning,
                stacklevel=1,
            )

    def __repr__(self) -> str:
        where = self._url.label() if self._url is not None else "no URL"
        count = len(self.connectors)
        return f"<ConnectorManager {where}, {count} connector{'s' * (count != 1)}{', closed' if self._closed else ''}>"


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
