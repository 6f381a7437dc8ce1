"""`Dialect`: which types a foreign connector is given, and which it returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ..computed import computed
from ..contract import ConnectorContext
from ..errors import InvalidKeyError
from ..keys import Key, parse_key
from ..memory import MemoryObj, release_all


class NamedKey(str):
    """A key that is only a string, with the `to_string()` that LMCache's keys have."""

    __slots__ = ()

    def to_string(self) -> str:
        """The string itself."""
        return str(self)


class Dialect:
    """This toolkit's own types. A subclass translates to and from those of another toolkit.

    One is made per connector. No payload is copied: `view` gives a view of the caller's memory, and `claim` takes over
    memory that `local_cpu_backend` allocated for the connector.
    """

    def __init__(self, context: ConnectorContext) -> None:
        self.toolkit_context: Final = context

    # What a constructor and an adapter are given.

    @computed
    def context(self) -> Any:
        """The context."""
        return self.toolkit_context

    @property
    def local_cpu_backend(self) -> Any:
        """The memory to receive into."""
        return self.toolkit_context.local_cpu_backend

    @computed
    def config(self) -> Any:
        """The configuration."""
        return self.toolkit_context.config

    @computed
    def metadata(self) -> Any:
        """The model's cache geometry."""
        return self.toolkit_context.metadata

    # What its methods are given.

    def key(self, key: Key) -> Any:
        """A key as the connector expects it: always something with `to_string()`."""
        if not isinstance(key, str):
            return key
        try:
            parsed = parse_key(key)
        except InvalidKeyError:
            return NamedKey(key)
        return parsed if parsed.to_string() == key else NamedKey(key)

    def view(self, obj: MemoryObj) -> Any:
        """A view of the memory of `obj`, with references of its own, for a `put`. It is valid until `revoke`."""
        return MemoryObj(obj.byte_array, obj.metadata, _ViewOwner())

    def revoke(self, views: Sequence[Any]) -> None:
        """Makes views invalid, however many references the connector kept for work that it left behind."""
        for obj in views:
            while obj.is_valid():
                obj.ref_count_down()

    # What they answer.

    async def claim(self, found: object) -> MemoryObj | None:
        """The chunk behind an object that the connector returned, with one reference for the caller.

        None where the object is not one of memory.
        """
        return found if isinstance(found, MemoryObj) else None

    def release(self, found: object) -> None:
        """Releases the memory objects in an answer that has no receiver any more."""
        release_all(found)

    @property
    def refusals(self) -> int:
        """How often the backend refused this connector's request for memory, because there was no room."""
        return 0

    async def wait_for_room(self) -> None:
        """Returns when there is room for what was refused last.

        Raises:
            AllocationTimeoutError: there was none in time.
        """

    def outlives_cancellation(self, connector: Any) -> bool:
        """Whether a call of the connector must not be cancelled, because it would go on nevertheless."""
        return False

    def before_close(self, connector: Any) -> None:
        """Called before the connector's `close`."""


class _ViewOwner:
    """Does nothing when a view is released: its memory belongs to the caller of `put`."""

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        pass

    def object_let_go(self, obj: MemoryObj) -> None:
        pass


def dialect_for(kind: type[Any], context: ConnectorContext) -> Dialect:
    """Returns the dialect of a foreign class: LMCache's where it was written for LMCache, else this toolkit's own."""
    # The manager puts `find_dialect` of `manager/compat_bridge.py` into the context. Where the process has imported
    # LMCache or its stand-in, that calls `find_dialect` of `compat/dialects.py`, which decides.
    found: Dialect | None = context.find_dialect(kind, context) if context.find_dialect is not None else None
    return found if found is not None else Dialect(context)
