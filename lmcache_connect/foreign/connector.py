"""`ForeignConnector`: a connector that does not derive from this toolkit's classes, held to this toolkit's contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ..contract import RemoteConnector, Slots
from ..errors import (
    ArenaExhaustedError,
    ConnectorContractError,
    CorruptRecordError,
    LMCacheConnectError,
    StoreUnavailableError,
    UnsupportedOperationError,
)
from ..keys import Key, key_string
from ..memory import MemoryObj, release_all
from .dialect import Dialect
from .methods import ForeignMethods

_NEEDED: Final = ("exists", "get", "put", "list", "close")


def missing_methods(kind: type[Any]) -> list[str]:
    """The methods that a class lacks to be used as a connector, whatever it derives from."""
    return [name for name in _NEEDED if not callable(getattr(kind, name, None))]


class ForeignConnector(RemoteConnector):
    """Wraps an object that has `exists`, `get`, `put`, `list` and `close`, whatever it derives from.

    Connectors written for LMCache differ from each other, so nothing is taken for granted:

    * Methods may be coroutines or plain functions, which then run in a thread; see `ForeignMethods`.
    * `put` may release the reference that it was given or keep it: it is given a view, which is revoked afterwards.
    * `list` may return None. `remove` may be missing, or be called `remove_sync`.
    * A batch that does not have one slot per key is asked for key by key instead.

    `dialect` translates between this toolkit's types and those that the object knows.
    """

    def __init__(self, foreign: Any, dialect: Dialect) -> None:
        super().__init__(dialect.toolkit_context.config, dialect.toolkit_context.metadata)
        self.foreign: Final = foreign
        """The object itself."""
        self._dialect = dialect
        self._methods = ForeignMethods(foreign, dialect)
        self._name: Final = type(foreign).__qualname__
        self._closed = False

    def post_init(self) -> None:
        """Calls the object's own `post_init`, where it has one."""
        if self._methods.has("post_init"):
            self.foreign.post_init()

    # ------------------------------------------------------------------------------------------------ one chunk

    async def exists(self, key: Key) -> bool:
        return bool(await self._methods.call("exists", self._dialect.key(key)))

    async def get(self, key: Key) -> MemoryObj | None:
        while True:
            refusals = self._dialect.refusals
            try:
                found = await self._claimed("get", await self._methods.call("get", self._dialect.key(key)))
            except LMCacheConnectError:
                raise
            except Exception:
                if self._dialect.refusals == refusals:
                    raise
                found = None  # it failed on the None that `allocate` returned
            # Without room such a connector reports a miss, although the chunk may well be there.
            if found is not None or self._dialect.refusals == refusals:
                return found
            await self._dialect.wait_for_room()

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        name, view = self._dialect.key(key), self._dialect.view(memory_obj)
        end = self._end_of([view], [memory_obj])
        await self._methods.call("put", name, view, nbytes=memory_obj.get_size(), on_end=end)

    async def remove(self, key: Key) -> bool:
        for name in ("remove", "remove_sync"):
            if self._methods.has(name):
                return bool(await self._methods.call(name, self._dialect.key(key)))
        raise UnsupportedOperationError(self._name, "remove")

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        """What the object's own `remove_damaged` does. One without it removes no damaged record."""
        if not self._methods.has("remove_damaged"):
            raise UnsupportedOperationError(self._name, "remove_damaged")
        return bool(await self._methods.call("remove_damaged", self._dialect.key(key), error))

    # -------------------------------------------------------------------------------------------------- batches

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        if not self._methods.supports("batched_get"):
            return await super().batched_get(keys)
        refusals = self._dialect.refusals
        try:
            found: Any = await self._methods.call("batched_get", [self._dialect.key(key) for key in keys])
        except (ArenaExhaustedError, CorruptRecordError):
            found = ()
        except (LMCacheConnectError, OSError):
            raise
        except Exception:
            found = ()  # one bad item fails the whole batch: the others are got one by one
        chunks = list(found or ())
        if len(chunks) != len(keys) or self._dialect.refusals != refusals:
            # It is unknown which chunk belongs to which key, or which is missing only because there was no room.
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
        if not self._methods.supports("batched_put") or len(keys) != len(memory_objs):
            await super().batched_put(keys, memory_objs)
            return
        views: list[Any] = []
        try:
            views.extend(self._dialect.view(obj) for obj in memory_objs)
            names = [self._dialect.key(key) for key in keys]
            end = self._end_of(views, memory_objs)
        except BaseException:
            self._dialect.revoke(views)
            raise
        nbytes = sum(obj.get_size() for obj in memory_objs)
        await self._methods.call("batched_put", names, list(views), nbytes=nbytes, on_end=end)

    def _end_of(self, views: Sequence[Any], memory_objs: Sequence[MemoryObj]) -> Callable[[], None]:
        """Holds the memory of views, and returns what ends them: for a thread that may be left behind with them."""
        held = list(memory_objs)
        for obj in held:
            obj.ref_count_up()

        def end() -> None:
            try:
                self._dialect.revoke(views)
            finally:
                release_all(held)

        return end

    # -------------------------------------------------------------------------------------------------- the store

    async def list(self) -> list[str]:
        return [_name(found) for found in await self._methods.call("list") or ()]

    def support_ping(self) -> bool:
        return self._methods.supports("ping")

    async def ping(self) -> int:
        if not self.support_ping():
            raise UnsupportedOperationError(self._name, "ping")
        if code := await self._methods.call("ping"):
            raise StoreUnavailableError(self._name, f"its ping gave the error code {code}")
        return 0

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._dialect.before_close(self.foreign)
            await self._methods.call("close")

    # ----------------------------------------------------------------------------------------------------- inside

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


def _name(found: Any) -> str:
    if isinstance(found, bytes):
        return found.decode(errors="replace")
    return key_string(found) if callable(getattr(found, "to_string", None)) else str(found)
