"""`read_payload`: the chunk of one key, or why it cannot be had, for commands that tell what is wrong with a record."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import NamedTuple

from ...contract import KeyFacts
from ...errors import ArenaExhaustedError, CorruptRecordError, OperationTimeoutError
from ...managed import ManagedConnector
from ...memory import MemoryObj


class Reading(StrEnum):
    """What came of reading a chunk."""

    READ = "read"
    MISSING = "missing"
    DAMAGED = "damaged"
    TOO_LARGE = "too large"
    """It is larger than the memory that the command has."""


class Payload(NamedTuple):
    """What came of reading a chunk: it, with a reference for the caller, or why it is missing here."""

    reading: Reading
    chunk: MemoryObj | None = None
    why: str = ""


async def read_payload(connector: ManagedConnector, key: str, facts: KeyFacts | None = None) -> Payload:
    """Reads and verifies one chunk. A record that does not verify stays in the store, and its error is told.

    Ends by the deadline that a get of as many bytes has.

    Raises:
        StoreError: the store has failed, or the time is over.
        ArenaExhaustedError: there was no room in time, although the memory is large enough.
    """
    settings = connector.context.settings
    nbytes = facts.nbytes if facts is not None and facts.nbytes is not None else 0
    capacity = connector.context.local_cpu_backend.chunk_limit()
    if nbytes > capacity:
        return Payload(Reading.TOO_LARGE, why=f"{nbytes} bytes, and {capacity} bytes of memory; see --memory")
    seconds = settings.operation_timeout + nbytes / settings.min_throughput
    timer = asyncio.timeout(seconds)
    try:
        async with timer:
            # Not the managed get, for which a damaged record is a miss.
            chunk = await connector.inside.get(key)
    except CorruptRecordError as error:
        return Payload(Reading.DAMAGED, why=str(error))
    except ArenaExhaustedError as error:
        if error.requested <= error.capacity:
            raise
        return Payload(Reading.TOO_LARGE, why=f"{error}; see --memory")
    except TimeoutError as error:
        if isinstance(error, OperationTimeoutError) or not timer.expired():
            raise
        raise OperationTimeoutError(connector.store, "get", seconds) from None
    return Payload(Reading.MISSING) if chunk is None else Payload(Reading.READ, chunk)
