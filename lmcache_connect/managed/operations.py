"""`Operation`: what is the same for all calls of one of a connector's operations, and the table of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

from ..contract import Documents, FactSlots, Flags, Slots
from ..memory import MemoryObj
from ..observability import OperationStatistics

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One operation of a connector, as the runner has to know it. `T` is the type of its result."""

    name: str
    miss: Callable[[int], T] | None = None
    """Returns the result that means "no" for a number of keys. None: a failure is raised in both error modes."""
    count: Callable[[OperationStatistics, T], int] | None = None
    """Adds a result's hits and bytes to the statistics. Returns how many of its keys were not found."""
    is_bypassable: bool = False
    """Whether a bypassed connector answers it with `miss` instead of asking the store."""
    is_probe: bool = False
    """Whether the store is asked also while the circuit breaker is open."""
    is_transfer: bool = False
    """Whether it moves the bytes of chunks."""
    is_repeatable: bool = True
    """Whether it may be tried again after a retryable failure."""
    is_counted: bool = True
    """Whether it is in the statistics: those are of the application's operations, not of the toolkit's own."""
    take: Callable[[Any], T] | None = None
    """Makes the result of what the connector's method has returned. None: that is the result."""
    absence: str = "absent"
    """The reason by which keys are counted that the connector has said "no" to, without another reason."""


class Transferred(NamedTuple):
    """What came of a call with memory of its callers: an answer per key, and the bytes of those that are True."""

    flags: Flags
    nbytes: int


def _count_flag(stats: OperationStatistics, found: bool) -> int:
    if found:
        stats.hits += 1
        return 0
    return 1


def _count_flags(stats: OperationStatistics, found: Flags) -> int:
    hits = sum(found)
    stats.hits += hits
    return len(found) - hits


def _count_gone(stats: OperationStatistics, gone: bool) -> int:
    stats.hits += gone
    return 0  # a key that was not there is no miss


def _count_all_gone(stats: OperationStatistics, gone: Flags) -> int:
    stats.hits += sum(gone)
    return 0


def _count_chunk(stats: OperationStatistics, found: MemoryObj | None) -> int:
    if found is None:
        return 1
    stats.hits += 1
    stats.bytes += found.get_size()
    return 0


def _count_chunks(stats: OperationStatistics, found: Slots) -> int:
    return sum(_count_chunk(stats, item) for item in found)


def _count_received(stats: OperationStatistics, done: Transferred) -> int:
    stats.bytes += done.nbytes
    return _count_flags(stats, done.flags)


def _count_sent(stats: OperationStatistics, done: Transferred) -> int:
    stats.bytes += done.nbytes
    return len(done.flags) - sum(done.flags)


def _nothing(_: object) -> None:
    return None


def _false(_: int) -> bool:
    return False


def _all_false(items: int) -> Flags:
    return [False] * items


def _nothing_moved(items: int) -> Transferred:
    return Transferred([False] * items, 0)


def _all_missing(items: int) -> Slots:
    return [None] * items


EXISTS: Final[Operation[bool]] = Operation("exists", _false, _count_flag, is_bypassable=True, take=bool)
GET: Final[Operation[MemoryObj | None]] = Operation("get", _nothing, _count_chunk, is_bypassable=True, is_transfer=True)
PUT: Final[Operation[None]] = Operation("put", _nothing, is_bypassable=True, is_transfer=True, take=_nothing)
BATCHED_EXISTS: Final[Operation[Flags]] = Operation("batched_exists", _all_false, _count_flags, is_bypassable=True)
BATCHED_GET: Final[Operation[Slots]] = Operation(
    "batched_get", _all_missing, _count_chunks, is_bypassable=True, is_transfer=True
)
BATCHED_PUT: Final[Operation[None]] = Operation(
    "batched_put", _nothing, is_bypassable=True, is_transfer=True, take=_nothing
)
GET_INTO: Final[Operation[Transferred]] = Operation(
    "get_into", _nothing_moved, _count_received, is_bypassable=True, is_transfer=True
)
BATCHED_GET_INTO: Final[Operation[Transferred]] = Operation(
    "batched_get_into", _nothing_moved, _count_received, is_bypassable=True, is_transfer=True
)
# An engine waits for its memory, and may shed a put that failed: it is not tried again.
PUT_FROM: Final[Operation[Transferred]] = Operation(
    "put_from",
    _nothing_moved,
    _count_sent,
    is_bypassable=True,
    is_transfer=True,
    is_repeatable=False,
    absence="not_stored",
)
BATCHED_PUT_FROM: Final[Operation[Transferred]] = Operation(
    "batched_put_from",
    _nothing_moved,
    _count_sent,
    is_bypassable=True,
    is_transfer=True,
    is_repeatable=False,
    absence="not_stored",
)
# A bypass drops no removal: what was to go away would still be there afterwards.
REMOVE: Final[Operation[bool]] = Operation("remove", _false, _count_gone, take=bool)
BATCHED_REMOVE: Final[Operation[Flags]] = Operation("batched_remove", _all_false, _count_all_gone)
# Half a listing must not look like a whole one, so a failure here never becomes a miss.
LIST: Final[Operation[list[str]]] = Operation("list")
# A page of a scan cannot be repeated: a generator that raised is finished.
SCAN: Final[Operation[tuple[list[str], bool]]] = Operation("scan", is_repeatable=False)
# A key that was not asked for must not look like one that is not there.
DESCRIBE: Final[Operation[FactSlots]] = Operation("describe", is_counted=False)
EXPIRE: Final[Operation[Flags]] = Operation("expire", is_counted=False)
REMOVE_OUTDATED: Final[Operation[int]] = Operation("remove_outdated", take=int)
PING: Final[Operation[int]] = Operation("ping", is_probe=True, take=int)
CHECK: Final[Operation[int]] = Operation("ping", is_probe=True, is_counted=False, take=int)
ANNOUNCE: Final[Operation[None]] = Operation("announce", take=_nothing)
WITHDRAW: Final[Operation[None]] = Operation("withdraw", take=_nothing)
ANNOUNCED: Final[Operation[Documents]] = Operation("announced", is_counted=False)

GETS: Final = frozenset({GET.name, BATCHED_GET.name, GET_INTO.name, BATCHED_GET_INTO.name})
"""The names of the operations that bring chunks."""

REMOVALS: Final = frozenset({REMOVE.name, BATCHED_REMOVE.name})
"""The names of the operations that remove chunks. Their hits are the keys that are gone by them."""

PUTS: Final = frozenset({PUT.name, BATCHED_PUT.name, PUT_FROM.name, BATCHED_PUT_FROM.name})
"""The names of the operations that store chunks."""
