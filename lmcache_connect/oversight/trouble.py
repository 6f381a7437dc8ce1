"""`Trouble`: what makes the service of a store a bad one, with what an operator can do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..contract import ServerFacts
from ..managed import GETS, BreakerState, ManagedConnector
from .fleet import FleetTraffic
from .recent import RecentCounts

SLOW: Final = "slow"
"""Stands for the class of an error where calls succeed late."""

SLOW_SHARE: Final = 0.5
"""The share of its deadline that a call may take before it is late. Nine of ten recent calls have to be sooner."""

SLOW_PING: Final = 0.5
"""Seconds in which a server in good order answers a ping."""

FULL: Final = 0.99
"""The share of its memory from which a server that evicts nothing is full."""

DAMAGED_SHARE: Final = 0.1
"""The share of the chunks asked for recently that may be damaged."""

FAILING_SHARE: Final = 0.1
"""The share of other workers' calls that may fail."""

_FEWEST: Final = 10
"""Calls, or chunks, by which recent service is judged."""

_SINGLE: Final = ("get", "put", "get_into", "put_from", "exists", "remove")
"""Operations whose deadline is the setting `operation_timeout`. That of a batch grows with its size."""

_ADVICE: Final = {
    "AbandonedCallsError": "the connector's code does not end its calls: see its author, or restart the process",
    "AllocationTimeoutError": "chunks are not released, or the arena is too small: see max_local_cpu_bytes",
    "ArenaExhaustedError": "chunks are not released, or the arena is too small: see max_local_cpu_bytes",
    "AuthenticationError": "fix the user, the password or its rights: the URL, its options, the store's rules",
    "CertificateError": "its detail says which certificate is refused, and why; replaced files are read again",
    "CircuitOpenError": "the store cannot be reached, or closes connections: look at it and at the network",
    "LapsedLoginError": "the store forgets logins: look at its rules, and at a proxy in front of it",
    "LoopNotRunningError": "something holds the process's event loop: GET /threads shows where; take it off the loop",
    "OperationTimeoutError": "the store or the network is slow or stalled: look at its load, then at operation_timeout",
    "ReadOnlyStoreError": "it is a replica: lead the URL to the primary",
    "StoreFullError": "the store's memory is full: raise maxmemory, choose an evicting policy, or set ?ttl=",
    "StoreLoadingError": "it loads its data: wait",
    "StoreStalledError": "the store or the network does not get on: look at its load, then at stall_timeout",
    "StoreUnavailableError": "the store cannot be reached, or closes connections: look at it and at the network",
    "TLSMismatchError": "the URL says TLS and the store's port does not, or the other way round: correct either",
    "ValueTooLargeError": "the store takes no chunk of this size: raise its limit, or store smaller chunks",
    SLOW: "look at the store's load, its slow log and the network; then at operation_timeout",
    "WrongTypeError": "another program uses the same keys: set a ?prefix= of your own",
}

_OTHERWISE: Final = "look at the store's own log"


def advice_for(error: str) -> str:
    """What to do about failures of a class."""
    return _ADVICE.get(error, _OTHERWISE)


@dataclass(frozen=True)
class Trouble:
    """What fails on a store: a kind of operation with a class of error, how often, and since when.

    `operation` may also be `server`, for what a server tells of itself, and `others`, for the calls of other workers.
    """

    operation: str
    error: str
    """The error's class, or `slow`."""
    detail: str
    """The message of the last failure. It holds no secret."""
    since: float | None
    """Seconds since 1970; None where that is not known."""
    failures: int
    """How many calls have failed since then, of `calls`."""
    calls: int
    advice: str
    """What to do about it."""


def trouble_of(
    connector: ManagedConnector,
    recent: RecentCounts | None = None,
    *,
    facts: Sequence[ServerFacts] = (),
    others: FleetTraffic | None = None,
    ping: float | None = None,
) -> tuple[Trouble, ...]:
    """What fails on a connector's store now; the operations that fail most often come first. On its owning loop.

    `recent` are the connector's counts of the last minute, `facts` what its servers tell, `others` what other workers
    do on the store, and `ping` the seconds of the last ping.
    """
    found = [
        Trouble(
            condition.operation,
            condition.error,
            condition.detail,
            condition.since,
            condition.failures,
            condition.calls,
            advice_for(condition.error),
        )
        for condition in connector.conditions()
        if condition.operation != "ping"  # which is asked, and told by itself
    ]
    found.sort(key=lambda one: -one.failures)
    if not found and connector.breaker_state is not BreakerState.CLOSED:
        text = "calls are refused, since the last transfers failed"
        found.append(Trouble("transfers", "CircuitOpenError", text, None, 0, 0, _ADVICE["CircuitOpenError"]))
    found += _of_servers(connector)
    found += _of_damage(connector, recent)
    found += _of_latency(connector, recent, ping)
    known = {one.error for one in found}
    found += [one for one in _of_facts(facts) if one.error not in known]
    if others is not None and others.failing_share is not None and others.failing_share >= FAILING_SHARE:
        text = f"{100 * others.failing_share:.0f} % of the last calls of other workers on this store failed"
        advice = "look at their own status pages: GET /controller/workers has their addresses"
        found.append(Trouble("others", "StoreError", text, None, 0, 0, advice))
    return tuple(found)


def _of_servers(connector: ManagedConnector) -> Iterator[Trouble]:
    for state in connector.servers():
        if state.breaker is not BreakerState.CLOSED:
            error = state.error or "StoreUnavailableError"
            text = f"{state.server} does not answer, and costs its share of the keys"
            detail = f"{text}: {state.detail}" if state.detail else text
            yield Trouble("server", error, detail, None, state.failures, 0, advice_for(error))


def _of_damage(connector: ManagedConnector, recent: RecentCounts | None) -> Iterator[Trouble]:
    advice = "look for a fault of the network, a proxy or a writer"
    counted = recent.total(GETS) if recent is not None else None
    damaged = 0
    if counted is not None:
        damaged = sum(count for reason, count in counted.misses.items() if reason.startswith("corrupt:"))
    asked = counted.items if counted is not None else 0
    if connector.removals_suspended:
        text = "many records do not verify, and none is removed for now"
        yield Trouble("get", "CorruptRecordError", text, None, damaged, asked, advice)
    elif damaged >= _FEWEST and damaged >= DAMAGED_SHARE * asked:
        text = f"{damaged} of {asked} chunks asked for in the last minute did not verify, and were misses"
        yield Trouble("get", "CorruptRecordError", text, None, damaged, asked, advice)


def _of_latency(connector: ManagedConnector, recent: RecentCounts | None, ping: float | None) -> Iterator[Trouble]:
    if ping is not None and ping >= SLOW_PING:
        yield Trouble("ping", SLOW, f"the store takes {ping:.2f} s to answer a ping", None, 0, 0, _ADVICE[SLOW])
    limit = SLOW_SHARE * connector.context.settings.operation_timeout
    for name in _SINGLE if recent is not None else ():
        counted = recent.operations.get(name) if recent is not None else None
        if counted is None or counted.wire.count < _FEWEST:
            continue
        seconds = counted.wire.quantile(0.9)
        if seconds is not None and seconds >= limit:
            text = f"one call of ten took {seconds:.1f} s or more in the last minute; after {2 * limit:g} s they fail"
            yield Trouble(name, SLOW, text, None, 0, counted.calls, _ADVICE[SLOW])


def _of_facts(facts: Sequence[ServerFacts]) -> Iterator[Trouble]:
    full = [one for one in facts if one.evicts is False and (one.fill or 0.0) >= FULL]
    if full:
        text = f"the memory (maxmemory) of {_some(full, facts)} is full, and nothing is evicted: puts are refused"
        yield Trouble("server", "StoreFullError", text, None, 0, 0, _ADVICE["StoreFullError"])
    failed = [one for one in facts if one.saves is False]
    if failed:
        text = f"the last write of {_some(failed, facts)} to its disk failed: Redis then refuses puts"
        advice = "make room on the server's disk, and look at its log; or switch its persistence off"
        yield Trouble("server", "StoreCommandError", text, None, 0, 0, advice)


def _some(some: Sequence[ServerFacts], facts: Sequence[ServerFacts]) -> str:
    return (
        "the server" if len(facts) == 1 else f"one server of {len(facts)}" if len(some) == 1 else f"{len(some)} servers"
    )
