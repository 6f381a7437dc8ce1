"""`ForeignConnector`: a connector of another making, held to this toolkit's contract."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

import anyio
import anyio.to_thread

from ..contract import ConnectorContext, RemoteConnector, Slots
from ..errors import ConnectorContractError, LMCacheConnectError, StoreUnavailableError, UnsupportedOperationError
from ..keys import Key, key_string
from ..memory import MemoryObj, release_all
from .dialect import Dialect, dialect_for
from .plugin_class import PluginClass, missing_methods

_READS_MEMORY: Final = ("put", "batched_put")

ABANDON_GRACE: Final = 1.0
"""Seconds that a call is waited for after its caller gave up, where the connector cannot be told, before it is left to
itself. What it brings later is given back; memory that a `put` was lent is taken away."""


class ForeignConnector(RemoteConnector):
    """Wraps an object that has `exists`, `get`, `put`, `list` and `close`, whatever it derives from.

    Connectors written for LMCache differ from each other, so that nothing is taken for granted here: methods may be
    coroutines or plain functions, which then run in a thread (a plain `put` is waited for past
    the deadline, because it reads the caller's memory); `put` may give back a reference or not, because it is
    lent an object of its own for the same memory; `list` may return None; `remove` may be missing, or be called
    `remove_sync`; a batch that does not have one slot per key is asked for key by key instead. `dialect` says in which
    types it is spoken to.
    """

    def __init__(self, wrapped: Any, dialect: Dialect) -> None:
        super().__init__(dialect.toolkit_context.config, dialect.toolkit_context.metadata)
        self.foreign: Final = wrapped
        """The object itself."""
        self._dialect = dialect
        self._name: Final = type(wrapped).__qualname__
        self._closed = False

    def post_init(self) -> None:
        if callable(hook := getattr(self.foreign, "post_init", None)):
            hook()

    # ------------------------------------------------------------------------------------------------ one chunk

    async def exists(self, key: Key) -> bool:
        return bool(await self._call("exists", self._dialect.key(key)))

    async def get(self, key: Key) -> MemoryObj | None:
        while True:
            refusals = self._dialect.refusals
            try:
                found = await self._claimed("get", await self._call("get", self._dialect.key(key)))
            except LMCacheConnectError:
                raise
            except Exception:
                if self._dialect.refusals == refusals:
                    raise
                found = None  # it stumbled over the None that `allocate` gave it
            # Without room such a connector says that the chunk is not there, which nobody knows yet.
            if found is not None or self._dialect.refusals == refusals:
                return found
            await self._dialect.wait_for_room()

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        lent = self._dialect.lend(memory_obj)
        try:
            await self._call("put", self._dialect.key(key), lent)
        finally:
            self._dialect.take_back([lent])

    async def remove(self, key: Key) -> bool:
        for name in ("remove", "remove_sync"):
            if self._has(name):
                return bool(await self._call(name, self._dialect.key(key)))
        raise UnsupportedOperationError(self._name, "remove")

    # -------------------------------------------------------------------------------------------------- batches

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        if not self._supports("batched_get"):
            return await super().batched_get(keys)
        refusals = self._dialect.refusals
        try:
            found: Any = await self._call("batched_get", [self._dialect.key(key) for key in keys])
        except LMCacheConnectError:
            raise
        except Exception:
            if self._dialect.refusals == refusals:
                raise
            found = ()
        chunks = list(found or ())
        if len(chunks) != len(keys) or self._dialect.refusals != refusals:
            # Which of them is whose cannot be told, or what is missing because there was no room for it.
            self._dialect.release(chunks)
            return await super().batched_get(keys)
        claimed: Slots = []
        try:
            for chunk in chunks:
                claimed.append(await self._claimed("batched_get", chunk))
        except BaseException:
            release_all(claimed)
            self._dialect.release(chunks[len(claimed) :])
            raise
        return claimed

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        if not self._supports("batched_put") or len(keys) != len(memory_objs):
            await super().batched_put(keys, memory_objs)
            return
        lent: list[Any] = []
        try:
            lent.extend(self._dialect.lend(obj) for obj in memory_objs)
            await self._call("batched_put", [self._dialect.key(key) for key in keys], list(lent))
        finally:
            self._dialect.take_back(lent)

    # -------------------------------------------------------------------------------------------------- the store

    async def list(self) -> list[str]:
        return [_name(found) for found in await self._call("list") or ()]

    def support_ping(self) -> bool:
        return self._supports("ping")

    async def ping(self) -> int:
        if not self.support_ping():
            raise UnsupportedOperationError(self._name, "ping")
        if code := await self._call("ping"):
            raise StoreUnavailableError(self._name, f"its ping gave the error code {code}")
        return 0

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._dialect.before_close(self.foreign)
            await self._call("close")

    # ----------------------------------------------------------------------------------------------------- inside

    def _has(self, name: str) -> bool:
        return callable(getattr(self.foreign, name, None))

    def _supports(self, name: str) -> bool:
        supports = getattr(self.foreign, f"support_{name}", None)
        return self._has(name) and callable(supports) and supports() is True

    async def _call(self, name: str, *args: Any) -> Any:
        try:
            return await self._called(name, *args)
        except NotImplementedError as error:
            raise UnsupportedOperationError(self._name, name) from error

    async def _called(self, name: str, *args: Any) -> Any:
        method = getattr(self.foreign, name)
        if inspect.iscoroutinefunction(method):
            if self._dialect.outlives_cancellation(self.foreign):
                return await self._shielded(name, method(*args))
            return await method(*args)
        # It may block, or return something to await. Only one that reads the caller's memory is waited for past the
        # deadline: what the others bring too late is given back.
        is_abandoned = False

        def call() -> Any:
            result = method(*args)
            if is_abandoned:
                self._dialect.release(result)
            return result

        try:
            result = await anyio.to_thread.run_sync(call, abandon_on_cancel=name not in _READS_MEMORY)
        except BaseException:
            is_abandoned = True
            raise
        return await result if inspect.isawaitable(result) else result

    async def _shielded(self, name: str, call: Coroutine[Any, Any, Any]) -> Any:
        # Cancelling such a connector ends one of its workers for good, and not the work.
        task = asyncio.get_running_loop().create_task(call, name=f"{self._name}.{name}")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            try:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({task}, timeout=ABANDON_GRACE)
            finally:
                if task.done():
                    self._forget(task)
                else:
                    task.add_done_callback(self._forget)
            raise

    def _forget(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._dialect.release(task.result())

    async def _claimed(self, operation: str, found: Any) -> MemoryObj | None:
        if found is None:
            return None
        chunk = await self._dialect.claim(found)
        if chunk is None:
            raise ConnectorContractError(
                self._name,
                operation,
                f"returned a {type(found).__qualname__}",
                "a memory object of the backend, or None",
            )
        return chunk


def make_connector(
    plugin: PluginClass, kind: type[Any], context: ConnectorContext, options: Mapping[str, Any]
) -> RemoteConnector:
    """An instance of a plug-in's class, wrapped where it is no `RemoteConnector`.

    Its constructor is given those of `loop`, `local_cpu_backend` and `config`, of `metadata`, `context`, `url`, `host`,
    `port` and `plugin_name`, and of `options`, that it asks for by name. A class written for LMCache is given LMCache's
    types.

    Raises:
        PluginTypeError: it asks for something else.
        PluginConstructionError: it raised.
    """
    dialect = Dialect(context) if issubclass(kind, RemoteConnector) else dialect_for(kind, context)
    usual = {"loop": context.loop, "local_cpu_backend": dialect.local_cpu_backend, "config": dialect.config}
    further = {
        "metadata": dialect.metadata,
        "context": dialect.context,
        "url": context.url,
        "host": context.remote_url.host,
        "port": context.remote_url.port,
        "plugin_name": context.plugin_name,
    }
    made = plugin.make(kind, usual, further, options)
    return made if isinstance(made, RemoteConnector) else ForeignConnector(made, dialect)


def adopt_connector(made: Any, context: ConnectorContext, dialect: Dialect | None = None) -> RemoteConnector | str:
    """What an adapter made, wrapped where it is no `RemoteConnector`; or as a sentence what is wrong with it.

    `dialect` is the one in which the adapter was spoken to, where that is known.
    """
    if isinstance(made, RemoteConnector):
        return made
    kind = type(made)
    if lacking := missing_methods(kind):
        return f"returned a {kind.__qualname__}, which has no {', '.join(lacking)}()"
    return ForeignConnector(made, dialect if dialect is not None else dialect_for(kind, context))


def _name(found: Any) -> str:
    if isinstance(found, bytes):
        return found.decode(errors="replace")
    return key_string(found) if callable(getattr(found, "to_string", None)) else str(found)
