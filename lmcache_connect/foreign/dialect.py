"""`Dialect`: in which types a connector of another making is spoken to, and what it answers in."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

from ..contract import ConnectorContext
from ..errors import InvalidKeyError
from ..keys import Key, parse_key
from ..memory import MemoryObj, release_unclaimed

# By name, as the registry names adapters: these are above, and imported on first use.
_COMPAT: Final = "lmcache_connect.compat"
_DIALECTS: Final = f"{_COMPAT}.dialects"


class NamedKey(str):
    """A key that is only a string, with what LMCache's keys have for it."""

    __slots__ = ()

    def to_string(self) -> str:
        """The string itself."""
        return str(self)


class Dialect:
    """This toolkit's own types. A subclass translates to those of somebody else.

    One is made per connector. What `lend` gives is a view of the caller's memory, and what `claim` is given may be
    one of memory that `local_cpu_backend` allocated: no payload is copied in either direction.
    """

    def __init__(self, context: ConnectorContext) -> None:
        self.toolkit_context: Final = context

    # What a constructor and an adapter are given.

    @cached_property
    def context(self) -> Any:
        """The context."""
        return self.toolkit_context

    @property
    def local_cpu_backend(self) -> Any:
        """The memory to receive into."""
        return self.toolkit_context.local_cpu_backend

    @cached_property
    def config(self) -> Any:
        """The configuration."""
        return self.toolkit_context.config

    @cached_property
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

    def lend(self, obj: MemoryObj) -> Any:
        """An object of the connector's own for the memory of `obj`, whose references are not the caller's."""
        return MemoryObj(obj.byte_array, obj.metadata, _Lender())

    def take_back(self, lent: Sequence[Any]) -> None:
        """Ends what was lent, however many references the connector kept, for work that it left behind."""
        for obj in lent:
            while obj.is_valid():
                obj.ref_count_down()

    # What they answer.

    async def claim(self, found: object) -> MemoryObj | None:
        """The chunk that the connector's object stands for, with one reference; None where it is no such object."""
        return found if isinstance(found, MemoryObj) else None

    def release(self, found: object) -> None:
        """Gives back the memory objects in an answer that nobody will receive."""
        release_unclaimed(found)

    @property
    def refusals(self) -> int:
        """How often the backend had no room for this connector, where it asked without waiting."""
        return 0

    async def wait_for_room(self) -> None:
        """Returns when there is room for what was refused last. Raises `AllocationTimeoutError`."""

    def outlives_cancellation(self, connector: Any) -> bool:
        """Whether the connector goes on with a call whose caller was cancelled, and must not be told of it."""
        return False

    def before_close(self, connector: Any) -> None:
        """Called before the connector's `close`."""


class _Lender:
    """Owns what is lent to a `put`: memory that belongs to the caller."""

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        pass

    def object_let_go(self, obj: MemoryObj) -> None:
        pass


def dialect_for(kind: type[Any], context: ConnectorContext) -> Dialect:
    """The dialect of a class of another making: LMCache's where it was written against LMCache's names.

    Those are LMCache's own where it is installed, or what `lmcache_connect.compat` provides in its place.
    """
    # Nobody can have used a name of either without having imported it.
    if "lmcache" not in sys.modules and _COMPAT not in sys.modules:
        return Dialect(context)
    found: Dialect | None = importlib.import_module(_DIALECTS).find_dialect(kind, context)
    return found if found is not None else Dialect(context)


def install_lmcache_names() -> None:
    """`lmcache_connect.compat.install()`. Raises `LMCacheInstalledError`."""
    importlib.import_module(_COMPAT).install()
