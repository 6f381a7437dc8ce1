"""What callers pass to a connector, checked before anything is done with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import anyio.lowlevel

from ..contract import CallerMemory, Descriptions
from ..errors import ForeignObjectError, InvalidArgumentError
from ..keys import Key, check_batch, key_strings
from ..loop import LoopOwner
from ..memory import CallerMemoryObj, ChunkMemory, MemoryObj, SharedMemoryObj, check_apart

AT_ONCE: Final = 1000
"""Keys that are checked before the event loop may do other work."""


async def checked_keys(owner: LoopOwner, keys: Sequence[Key]) -> list[Key]:
    """Returns the keys of a batch, each of which is one.

    Raises:
        ForkedProcessError, InvalidArgumentError, InvalidKeyError.
    """
    owner.check_process()  # before the pause below, in which a fork would run its parent's event loop
    check_batch(keys)
    wanted = list(keys)
    for start in range(0, len(wanted), AT_ONCE):
        if start:
            await anyio.lowlevel.checkpoint()  # a hundred thousand keys must not hold the loop
        key_strings(wanted[start : start + AT_ONCE])
    return wanted


async def caller_memory(
    owner: LoopOwner, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions, *, writable: bool
) -> CallerMemory:
    """Returns the arguments of a call with memory of its callers, checked. The caller releases them.

    Raises:
        InvalidArgumentError: what `CallerMemory.of` refuses; or memory to be received into belongs to two regions.
        What `checked_keys` raises.
    """
    theirs = CallerMemory.of(await checked_keys(owner, keys), buffers, metadata, writable=writable)
    if writable:
        try:
            check_apart(theirs.regions)
        except BaseException:
            theirs.release()
            raise
    return theirs


def checked_ttls(ttls: Sequence[float], keys: int) -> list[float]:
    """Returns the times to live of a batch of so many keys, in seconds.

    Raises:
        InvalidArgumentError: there are more or fewer, or one is not a number of seconds above 0.
    """
    seconds = list(ttls)
    if len(seconds) != keys:
        raise InvalidArgumentError("ttls", f"{len(seconds)} times for {keys} keys")
    for ttl in seconds:
        if not isinstance(ttl, int | float) or isinstance(ttl, bool) or not 0 < ttl < math.inf:
            raise InvalidArgumentError("ttls", f"{ttl!r}; expected seconds above 0")
    return seconds


def listed_objects(memory_objs: Sequence[MemoryObj]) -> list[MemoryObj]:
    """Returns the objects of a batch.

    Raises:
        InvalidArgumentError: it is one object, or no sequence.
    """
    if isinstance(memory_objs, MemoryObj) or not isinstance(memory_objs, Iterable):
        raise InvalidArgumentError(
            "memory_objs",
            f"a {type(memory_objs).__qualname__}; expected a sequence of memory objects. For one pass [memory_obj]",
        )
    return list(memory_objs)


def size_of_borrowed(obj: MemoryObj, memory: ChunkMemory) -> int:
    """Returns the bytes of an object that a put of a connector with that memory may borrow.

    Raises:
        ForeignObjectError: it is not one of that memory, of a hot cache, or of `chunk_of`.
        ReleasedObjectError: it was released.
    """
    if not isinstance(obj, MemoryObj):
        raise ForeignObjectError(
            f"a {type(obj).__qualname__}", "a MemoryObj, from LocalCPUBackend.allocate() or chunk_of()"
        )
    nbytes = obj.get_size()  # raises for a released one
    # A put only reads those of a hot cache, which lie in memory of its own, and those in memory of their caller.
    if not isinstance(obj, SharedMemoryObj | CallerMemoryObj) and not memory.owns(obj):
        raise ForeignObjectError(
            "a MemoryObj of another backend", "one allocated by this connector's local_cpu_backend, or a chunk_of()"
        )
    return nbytes
