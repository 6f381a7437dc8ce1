"""`ForeignConnector`: a connector of another making, held to this toolkit's contract."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio.to_thread

from .connector import RemoteConnector, Slots
from .context import ConnectorContext
from .errors import ConnectorContractError, InvalidKeyError, StoreUnavailableError, UnsupportedOperationError
from .keys import CacheEngineKey, Key, LayerCacheEngineKey, parse_key
from .loop import release_unclaimed
from .memory.memory_obj import MemoryObj, release_all
from .plugin_class import PluginClass

_READS_MEMORY: Final = ("put", "batched_put")


class NamedKey(str):
    """A key that is only a string, with what LMCache's keys have for it."""

    __slots__ = ()

    def to_string(self) -> str:
        """The string itself."""
        return str(self)


class _Lender:
    """Owns what is lent to a `put`: memory that belongs to the caller."""

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        pass

    def object_let_go(self, obj: MemoryObj) -> None:
        pass


class ForeignConnector(RemoteConnector):
    """Wraps an object that has `exists`, `get`, `put`, `list` and `close`, whatever it derives from.

    Connectors written for LMCache differ from each other, so that nothing is taken for granted here: methods may be
    coroutines or plain functions, which then run in a thread (a plain `put` is waited for past
    the deadline, because it reads the caller's memory); `put` may give back a reference or not, because it is
    lent an object of its own for the same memory; `list` may return None; `remove` may be missing, or be called
    `remove_sync`; a batch that does not have one slot per key is asked for key by key instead.
    """

    def __init__(self, wrapped: Any, config: Any = None, metadata: Any = None) -> None:
        super().__init__(config, metadata)
        self.foreign: Final = wrapped
        """The object itself."""
        self._name: Final = type(wrapped).__qualname__
        self._closed = False

    def post_init(self) -> None:
        if callable(hook := getattr(self.foreign, "post_init", None)):
            hook()

    # ------------------------------------------------------------------------------------------------ one chunk

    async def exists(self, key: Key) -> bool:
        return bool(await self._call("exists", _key(key)))

    async def get(self, key: Key) -> MemoryObj | None:
        return self._chunk("get", await self._call("get", _key(key)))

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        lent = MemoryObj(memory_obj.byte_array, memory_obj.metadata, _Lender())
        try:
            await self._call("put", _key(key), lent)
        finally:
            _take_back([lent])

    async def remove(self, key: Key) -> bool:
        for name in ("remove", "remove_sync"):
            if self._has(name):
                return bool(await self._call(name, _key(key)))
        raise UnsupportedOperationError(self._name, "remove")

    # -------------------------------------------------------------------------------------------------- batches

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        if not self._supports("batched_get"):
            return await super().batched_get(keys)
        found: Any = await self._call("batched_get", [_key(key) for key in keys])
        chunks = list(found or ())
        if len(chunks) == len(keys):
            checked: Slots = []
            try:
                for chunk in chunks:
                    checked.append(self._chunk("batched_get", chunk))
            except ConnectorContractError:
                release_all([chunk for chunk in chunks if isinstance(chunk, MemoryObj)])
                raise
            return checked
        # Which of them is whose cannot be told.
        release_all([chunk for chunk in chunks if isinstance(chunk, MemoryObj)])
        return await super().batched_get(keys)

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        if not self._supports("batched_put") or len(keys) != len(memory_objs):
            await super().batched_put(keys, memory_objs)
            return
        lent = [MemoryObj(obj.byte_array, obj.metadata, _Lender()) for obj in memory_objs]
        try:
            await self._call("batched_put", [_key(key) for key in keys], list(lent))
        finally:
            _take_back(lent)

    # -------------------------------------------------------------------------------------------------- the store

    async def list(self) -> list[str]:
        return [str(name) for name in await self._call("list") or ()]

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
            await self._call("close")

    # ----------------------------------------------------------------------------------------------------- inside

    def _has(self, name: str) -> bool:
        return callable(getattr(self.foreign, name, None))

    def _supports(self, name: str) -> bool:
        supports = getattr(self.foreign, f"support_{name}", None)
        return self._has(name) and callable(supports) and supports() is True

    async def _call(self, name: str, *args: Any) -> Any:
        method = getattr(self.foreign, name)
        if inspect.iscoroutinefunction(method):
            return await method(*args)
        # It may block, or return something to await. Only one that reads the caller's memory is waited for past the
        # deadline: what the others bring too late is given back.
        is_abandoned = False

        def call() -> Any:
            result = method(*args)
            if is_abandoned:
                release_unclaimed(result)
            return result

        try:
            result = await anyio.to_thread.run_sync(call, abandon_on_cancel=name not in _READS_MEMORY)
        except BaseException:
            is_abandoned = True
            raise
        return await result if inspect.isawaitable(result) else result

    def _chunk(self, operation: str, found: Any) -> MemoryObj | None:
        if found is None or isinstance(found, MemoryObj):
            return found
        raise ConnectorContractError(
            self._name, operation, f"returned a {type(found).__qualname__}", "a memory object of the backend, or None"
        )


def make_connector(
    plugin: PluginClass, kind: type[Any], context: ConnectorContext, options: Mapping[str, Any]
) -> RemoteConnector:
    """An instance of a plug-in's class, wrapped where it is no `RemoteConnector`.

    Its constructor is given those of `loop`, `local_cpu_backend` and `config`, of `metadata`, `context`, `url`, `host`,
    `port` and `plugin_name`, and of `options`, that it asks for by name.

    Raises:
        PluginTypeError: it asks for something else.
        PluginConstructionError: it raised.
    """
    usual = {"loop": context.loop, "local_cpu_backend": context.local_cpu_backend, "config": context.config}
    further = {
        "metadata": context.metadata,
        "context": context,
        "url": context.url,
        "host": context.remote_url.host,
        "port": context.remote_url.port,
        "plugin_name": context.plugin_name,
    }
    made = plugin.make(kind, usual, further, options)
    return made if isinstance(made, RemoteConnector) else ForeignConnector(made, context.config, context.metadata)


def _key(key: Key) -> Any:
    if not isinstance(key, str):
        return key
    try:
        parsed: CacheEngineKey | LayerCacheEngineKey = parse_key(key)
    except InvalidKeyError:
        return NamedKey(key)
    return parsed if parsed.to_string() == key else NamedKey(key)


def _take_back(lent: Sequence[MemoryObj]) -> None:
    for obj in lent:
        while obj.is_valid():  # it may have kept references, for work that it left behind
            obj.ref_count_down()
