"""The verdict on a cell: what is allowed, whatever the connector. What is not allowed is a defect."""

from __future__ import annotations

from typing import Final

from .cell import NEVER, WRONG, Cell

GONE: Final = frozenset({"StoreUnavailableError", "CircuitOpenError"})
SLOW: Final = frozenset({"StoreStalledError", "OperationTimeoutError"}) | GONE
STORED: Final = frozenset({"stored"})
VALUE: Final = frozenset({"value"})
MISS: Final = frozenset({"miss"})
LOGIN: Final = frozenset({"AuthenticationError", "LapsedLoginError"})

ALWAYS_RAISED: Final = LOGIN | {
    "CertificateError", "ForkedProcessError", "LoopNotRunningError", "CancelledError", "ConnectorContractError",
}  # fmt: skip
"""Errors that are raised with `errors=miss` as well: a caller has to mend something, or asked for it."""

Allowed = tuple[frozenset[str], frozenset[str]]


def _same(names: frozenset[str]) -> Allowed:
    return names, names


def _error(*names: str) -> Allowed:
    return _same(frozenset(names))


WORKS: Final[Allowed] = (STORED, VALUE)

ALLOWED: Final[dict[str, Allowed]] = {
    "reset": WORKS,
    "half-close": WORKS,
    "cut": WORKS,
    "refused": _same(GONE),
    "stall": _same(SLOW),
    "black-hole": _same(SLOW),
    "drip": _same(SLOW),
    # What a flip has damaged on its way to the store is found by the next get: it is never a value.
    "flip-payload": (frozenset({"stored", "dropped"}), VALUE | MISS),
    "flip-header": (frozenset({"stored", "dropped"}), VALUE | MISS),
    "extra-reply": (STORED, VALUE | MISS),
    "wrong-length": (STORED, VALUE | MISS),
    "error-loading": _same(GONE | {"StoreLoadingError"}),
    "error-noauth": _same(LOGIN),
    "error-wrongpass": _same(LOGIN),
    "error-masterdown": _same(GONE),
    "error-busy": _same(GONE),
    "error-moved": _same(GONE | {"WrongNodeError"}),
    "error-err": _error("StoreCommandError"),
    "http-length": WORKS,
    "http-extra": WORKS,
    "http-500": _same(GONE),
    "http-503": _same(GONE),
    "http-429": _same(GONE),
    # S3 says 403 of an object that is not there, where the credentials may not list.
    "http-403": (LOGIN, LOGIN | MISS),
    "kill": _same(GONE),
    "stop": _same(SLOW),
    # A node of a cluster that has come back serves after two seconds.
    "restart": (STORED | SLOW, VALUE | SLOW),
    "restart-empty": (STORED | SLOW, MISS | SLOW),
    "failover": WORKS,
    "readonly": (frozenset({"ReadOnlyStoreError"}), VALUE),
    "full": (frozenset({"StoreFullError"}), VALUE),
    "evict": (STORED, MISS),
    "ttl": (STORED, MISS),
    "wrong-login": _same(LOGIN),
    "rotated-login": WORKS,
    "s3-expired": _same(LOGIN),
    "certificate-expired": _error("CertificateError"),
    "certificate-misnamed": _error("CertificateError"),
    "certificate-unknown": _error("CertificateError"),
    "fork": _error("ForkedProcessError"),
    "second-loop": WORKS,
    "loop-stopped": _error("LoopNotRunningError"),
    "cancel": _error("CancelledError"),
    "arena-full": (STORED, frozenset({"AllocationTimeoutError"})),
    "plugin-raises": _error("ConnectorFailureError"),
    "plugin-exits": _error("ConnectorFailureError"),
    "plugin-hangs": _error("OperationTimeoutError"),
    "plugin-answers": (STORED, frozenset({"ConnectorContractError"})),
    "plugin-blocks": _error("OperationTimeoutError"),
}
"""With `errors=raise`, of a put and of a get, for every connector."""

_RETRIED_ONCE: Final = frozenset({"reset", "half-close", "cut", "extra-reply", "wrong-length"})
"""Faults that a second attempt repairs. Puts of engines have none: an engine waits for its memory."""


def allowed(cell: Cell, operation: str, mode: str) -> frozenset[str]:
    """What this call may come to."""
    found = ALLOWED[cell.fault][operation == "get"]
    errors = frozenset(name for name in found if name.endswith("Error"))
    match cell.column:
        case "hot" if operation == "get" and cell.fault not in {"fork", "loop-stopped"}:
            found |= VALUE  # from this process's memory
        case "external" if errors or cell.fault in _RETRIED_ONCE:
            # Errors of a connector that is not this toolkit's are not told apart, nor repeated.
            found |= {"ConnectorFailureError", "OperationTimeoutError"}
        case "port" if operation == "put" and cell.fault in _RETRIED_ONCE:
            found |= GONE | {"StoreProtocolError"}
        case "native" | "l2" | "vllm" | "sglang":
            if errors - {"ForkedProcessError"} or (operation == "put" and cell.fault in _RETRIED_ONCE):
                found |= {"False", "miss"}
            if cell.column == "sglang" and cell.fault == "fork":
                found |= {"False"}  # an exception would end a thread of SGLang's
        case _:
            pass
    if mode == "miss":
        turned = {"returned", "dropped"} if operation == "put" else {"miss"}
        if any(name.endswith("Error") and name not in ALWAYS_RAISED for name in found):
            found = frozenset(name for name in found if not name.endswith("Error") or name in ALWAYS_RAISED) | turned
    return found


def faults_of(cell: Cell) -> list[str]:
    """What is wrong with a cell, in words; empty where nothing is."""
    found = []
    for operation, modes in cell.seen.items():
        for mode, seen in modes.items():
            where = f"{operation} with errors={mode}"
            if WRONG in seen.outcome:
                found.append(f"{where}: a wrong value")
            elif seen.outcome not in allowed(cell, operation, mode):
                expected = " or ".join(sorted(allowed(cell, operation, mode)))
                found.append(f"{where}: {seen.outcome}; expected {expected}")
            if seen.when == "LATE":
                found.append(f"{where}: later than its deadline")
    if cell.next == NEVER:
        found.append("no call worked after it")
    found += [f"left behind: {what}" for what in cell.left]
    return found
