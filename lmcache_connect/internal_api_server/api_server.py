"""`InternalAPIServer`: serves the internal API on the application's event loop, or in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final

import anyio
from fastapi import APIRouter, FastAPI

from ..errors import InvalidArgumentError, MissingExtraError
from ..loop import LoopOwner
from ..manager import ConnectorManager, tell_unknown_variables
from ..observability import event
from .application import create_app, create_metrics_app
from .errors import ServerStateError
from .listener import Listener
from .server_config import APIServerConfig
from .state import APIState, state_of

try:
    import uvicorn

    from .connections import Connections
except ImportError as missing:
    raise MissingExtraError("the internal API server", missing.name or "uvicorn", "api") from missing

_FORCE_GRACE: Final = 1.0
"""Seconds that connections have to end after the grace period."""

_SYNC_TIMEOUT: Final = 60.0

_KEEP_ALIVE: Final = 5
"""Seconds after an answer in which a client has to begin its next request on the same connection."""

_ACCEPTED_AT_ONCE: Final = 4
"""Connections that one iteration of the event loop accepts. It takes a few iterations to close one again."""

_MAX_HEAD_BYTES: Final = 256 << 10
"""The most bytes of a request's first line and headers. The longest look-up with GET fits, percent-encoded."""


class InternalAPIServer:
    """An HTTP server for one manager. A process may run several, each on an address of its own.

    `start()` returns once it listens; then `address` says where. It runs on the loop that `start()` is awaited on, or
    with `config.thread` on a loop of its own. The manager may live on either, and is not closed here. Use it as
    `async with`. From a thread without a loop, use it as `with`, which needs `config.thread`.
    """

    def __init__(
        self,
        manager: ConnectorManager,
        config: APIServerConfig | None = None,
        *,
        routers: Sequence[APIRouter] = (),
    ) -> None:
        """Does not listen yet. `routers` are served besides those that the registry finds.

        Raises:
            InvalidConfigError: the settings would let everybody on the network in.
            DuplicateRouteError: a router's path is taken.
        """
        self._config = config if config is not None else APIServerConfig.load()
        self._config.check_access()
        tell_unknown_variables(APIServerConfig)
        self._manager = manager
        self._app = create_app(manager, self._config, tuple(routers))
        self._state = state_of(self._app)
        self._owner: LoopOwner | None = None
        self._running: list[_Running] = []
        self._stopping: asyncio.Task[None] | None = None
        self._was_started = False

    @property
    def app(self) -> FastAPI:
        """The application that is served."""
        return self._app

    @property
    def state(self) -> APIState:
        """The state that its routes work on."""
        return self._state

    @property
    def config(self) -> APIServerConfig:
        """The settings."""
        return self._config

    @property
    def address(self) -> str | None:
        """Where it listens: `http://127.0.0.1:8000` or `unix:/path`. None while it does not listen."""
        return self._running[0].listener.address if self._running else None

    @property
    def metrics_address(self) -> str | None:
        """Where it serves metrics alone. None without `config.metrics_port`."""
        return self._running[1].listener.address if len(self._running) > 1 else None

    async def start(self) -> None:
        """Binds, and returns once connections are accepted.

        Raises:
            ServerBindError: it cannot listen there. Nothing is left open.
            ServerStateError: it was started before, or the application did not start.
        """
        if self._was_started:
            raise ServerStateError("it was started before; make another one")
        self._was_started = True
        try:
            self._owner = LoopOwner.start("lmcache-connect api") if self._config.thread else LoopOwner.adopt()
            await self._owner.run(self._start)
        except BaseException:
            if self._owner is not None:
                with anyio.CancelScope(shield=True):
                    await self._owner.close()
            raise

    def start_sync(self) -> None:
        """`start()` from a thread without an event loop. Needs `config.thread`.

        Raises:
            InvalidArgumentError: `config.thread` is off.
            LMCacheConnectError: as `start()` raises it.
            OSError: as `start()` raises it.
        """
        if not self._config.thread:
            raise InvalidArgumentError("config.thread", "it is off, and no loop runs here; set it, or await start()")
        asyncio.run(self.start())

    async def stop(self) -> None:
        """Stops listening, lets requests under way finish for `stop_grace` seconds, then drops them. Idempotent.

        It goes on where the caller is cancelled.
        """
        owner = self._owner
        if owner is None or owner.is_closed:
            return
        try:
            if owner.is_forked():
                return
            await owner.run(self._stop)
        finally:
            await owner.close()

    def stop_sync(self) -> None:
        """`stop()` from a thread without an event loop, for a server that has a thread of its own."""
        owner = self._owner
        if owner is None or owner.is_closed:
            return
        try:
            owner.run_sync("InternalAPIServer.stop", _SYNC_TIMEOUT, self._stop)
        finally:
            owner.close_sync()

    async def _start(self) -> None:
        config = self._config
        parts = [(self._listener(), self._app)]
        try:
            if config.metrics_port is not None:
                metrics = Listener.tcp(config.metrics_host, config.metrics_port)
                parts.append((metrics, create_metrics_app(self._manager, config)))
        except BaseException:
            parts[0][0].close()
            raise
        running = [_Running(listener, app, config) for listener, app in parts]
        try:
            for part in running:
                await part.start()
        except BaseException:
            with anyio.CancelScope(shield=True):
                for part in running:
                    await part.stop(0)
            raise
        self._running = running
        if (announcer := self._manager.announcer) is not None:
            owner = self._manager.made_owner
            announcer.serve_at(self.address, owner.loop if owner is not None else None)
        event(logging.INFO, "api_serving", address=self.address, metrics_address=self.metrics_address)

    def _listener(self) -> Listener:
        if self._config.unix_socket is not None:
            return Listener.unix(self._config.unix_socket)
        return Listener.tcp(self._config.host, self._config.port)

    async def _stop(self) -> None:
        if self._stopping is None:
            # A task of its own, so that a caller who is cancelled does not leave half of it open.
            self._stopping = asyncio.get_running_loop().create_task(self._stop_once())
        await asyncio.shield(self._stopping)

    async def _stop_once(self) -> None:
        running, self._running = self._running, []
        if (announcer := self._manager.announcer) is not None and running:
            announcer.stop_serving_at(running[0].listener.address)
        async with anyio.create_task_group() as group:
            for part in running:
                group.start_soon(part.stop, self._config.stop_grace)

    async def __aenter__(self) -> InternalAPIServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def __enter__(self) -> InternalAPIServer:
        self.start_sync()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_sync()

    def __repr__(self) -> str:
        return f"<InternalAPIServer {self.address or 'not serving'}>"


class _Running:
    """One listener and the server behind it."""

    def __init__(self, listener: Listener, app: FastAPI, config: APIServerConfig) -> None:
        self.listener = listener
        self.connections = Connections(config.max_connections, config.head_timeout, config.request_timeout)
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,  # logging is the application's
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                http=self.connections.make,  # type: ignore[arg-type]  # h11: strict, and always installed with uvicorn
                h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
                ws="none",
                timeout_graceful_shutdown=None,
                timeout_keep_alive=_KEEP_ALIVE,
                backlog=_ACCEPTED_AT_ONCE,
            ),
            self.connections,
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once connections are accepted."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve([self.listener.sock]))
        ready = asyncio.get_running_loop().create_task(self._server.ready.wait())
        try:
            await asyncio.wait((self._task, ready), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._task.done():
            raise ServerStateError("the application's start-up failed; the log of uvicorn.error says why")
        self.listener.listen()  # asyncio has set the system's queue to what it accepts at once

    async def stop(self, grace: float) -> None:
        """Ends it, at the latest about a second after `grace`."""
        if self._task is not None and not self._task.done():
            self._server.should_exit = True
            await asyncio.wait((self._task,), timeout=grace)
            if not self._task.done():
                self._server.force_exit = True
                for connection in list(self._server.server_state.connections):
                    if (transport := getattr(connection, "transport", None)) is not None:
                        transport.abort()
                for task in list(self._server.server_state.tasks):
                    task.cancel()
                await asyncio.wait((self._task,), timeout=_FORCE_GRACE)
            if not self._task.done():
                self._task.cancel()
                await asyncio.wait((self._task,))
        if self._task is not None and not self._task.cancelled():
            self._task.exception()  # so that asyncio does not log it as never retrieved
        self.listener.close()


class _Server(uvicorn.Server):
    """uvicorn without signal handlers, which the application sets. `ready` is set once it listens."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self._connections = connections
        self.ready: Final = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        try:
            await super().serve(sockets)  # type: ignore[arg-type]
        except SystemExit as failed:  # how uvicorn says that the application did not start
            raise ServerStateError("the application's start-up failed") from failed

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            self.ready.set()

    async def on_tick(self, counter: int) -> bool:
        self._connections.sweep()
        return await super().on_tick(counter)
