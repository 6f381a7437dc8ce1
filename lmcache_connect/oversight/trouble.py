"""`Trouble`: what makes the service of a store a bad one, with what an operator can do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..managed import BreakerState, ManagedConnector

_ADVICE: Final = {
    "AbandonedCallsError": "the connector's code does not end its calls: see its author, or restart the process",
    "AllocationTimeoutError": "chunks are not released, or the arena is too small: see max_local_cpu_bytes",
    "ArenaExhaustedError": "chunks are not released, or the arena is too small: see max_local_cpu_bytes",
    "AuthenticationError": "fix the user, the password or its rights: the URL, its options, the store's rules",
    "CertificateError": "its detail says which certificate is refused, and why; replaced files are read again",
    "LapsedLoginError": "the store forgets logins: look at its rules, and at a proxy in front of it",
    "OperationTimeoutError": "the store or the network is slow or stalled: look at its load, then at operation_timeout",
    "ReadOnlyStoreError": "it is a replica: lead the URL to the primary",
    "StoreFullError": "the store's memory is full: raise maxmemory, choose an evicting policy, or set ?ttl=",
    "StoreLoadingError": "it loads its data: wait",
    "StoreStalledError": "the store or the network does not get on: look at its load, then at stall_timeout",
    "StoreUnavailableError": "the store cannot be reached, or closes connections: look at it and at the network",
    "TLSMismatchError": "the URL says TLS and the store's port does not, or the other way round: correct either",
    "ValueTooLargeError": "the store takes no chunk of this size: raise its limit, or store smaller chunks",
    "WrongTypeError": "another program uses the same keys: set a ?prefix= of your own",
}

_OTHERWISE: Final = "look at the store's own log"


@dataclass(frozen=True)
class Trouble:
    """What fails on a store: a kind of operation with a class of error, how often, and since when."""

    operation: str
    error: str
    """The error's class."""
    detail: str
    """The message of the last failure. It holds no secret."""
    since: float | None
    """Seconds since 1970; None where that is not known."""
    failures: int
    """How many calls have failed since then, of `calls`."""
    calls: int
    advice: str
    """What to do about it."""


def trouble_of(connector: ManagedConnector) -> tuple[Trouble, ...]:
    """What fails on a connector's store now; the operations that fail most often come first. On its owning loop."""
    found = [
        Trouble(
            condition.operation,
            condition.error,
            condition.detail,
            condition.since,
            condition.failures,
            condition.calls,
            _ADVICE.get(condition.error, _OTHERWISE),
        )
        for condition in connector.conditions()
        if condition.operation != "ping"  # which is asked, and told by itself
    ]
    found.sort(key=lambda one: -one.failures)
    if not found and connector.breaker_state is BreakerState.OPEN:
        text = "calls are refused, since the last transfers failed"
        found.append(Trouble("transfers", "CircuitOpenError", text, None, 0, 0, _ADVICE["StoreUnavailableError"]))
    for state in connector.servers():
        if state.breaker is not BreakerState.CLOSED:
            error = state.error or "StoreUnavailableError"
            text = f"{state.server} does not answer, and costs its share of the keys"
            detail = f"{text}: {state.detail}" if state.detail else text
            found.append(Trouble("server", error, detail, None, state.failures, 0, _ADVICE.get(error, _OTHERWISE)))
    if connector.removals_suspended:
        text = "many records do not verify, and none is removed for now"
        advice = "look for a fault of the network, a proxy or a writer"
        found.append(Trouble("get", "CorruptRecordError", text, None, 0, 0, advice))
    return tuple(found)
