"""`CheckedCalls`: the calls of an author's connector whose answers have to be checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..contract import CallerMemory, ChunkSize, Flags, RemoteConnector, Slots
from ..errors import ConnectorContractError, CorruptRecordError
from ..keys import Key
from ..memory import MemoryObj, release_all
from ..observability import event
from .operations import Transferred


class CheckedCalls:
    """Calls a connector, and holds what it answers to the contract.

    Raises, in every method:
        ConnectorContractError: the answer is none that the contract allows.
        What the connector's method raises.
    """

    def __init__(self, connector: RemoteConnector, store: str, class_name: str, chunk_size: ChunkSize) -> None:
        """`store` and `class_name` are for messages. `chunk_size` is told of every chunk that comes."""
        self._connector = connector
        self._store = store
        self._class_name = class_name
        self._chunk_size = chunk_size
        self._are_positional = True

    async def get(self, key: Key) -> MemoryObj | None:
        """The chunk, or None for a miss or for a record that does not verify."""
        try:
            found = await self._connector.get(key)
        except CorruptRecordError as error:
            await self._connector.discard_corrupt(key, error)
            return None
        return self._chunk("get", found)

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """One slot per key, in order, also where the connector leaves out misses."""
        if self._are_positional:
            found = await self._connector.batched_get(keys)
            if isinstance(found, list) and len(found) == len(keys):
                try:
                    return [self._chunk("batched_get", item) for item in found]
                except BaseException:
                    release_all(found)
                    raise
            # Some connectors leave out misses, and nobody can tell which keys are left. Each is asked for by itself.
            release_all(found)
            self._are_positional = False
            event(
                logging.WARNING,
                "batched_get_not_positional",
                store=self._store,
                connector=self._class_name,
                keys=len(keys),
                answers=len(found) if isinstance(found, list) else type(found).__name__,
            )
        return await RemoteConnector.batched_get(self._connector, keys)

    async def get_into(self, key: Key, theirs: CallerMemory) -> Transferred:
        """Whether the chunk has come into the caller's memory. A record that does not verify has not."""
        try:
            found = await self._connector.get_into(key, theirs.regions[0], theirs.descriptions[0])
        except CorruptRecordError as error:
            await self._connector.discard_corrupt(key, error)
            found = False
        return self._transferred("get_into", [found], theirs)

    async def put_from(self, key: Key, theirs: CallerMemory) -> Transferred:
        """Whether the chunk in the caller's memory was stored."""
        stored = await self._connector.put_from(key, theirs.regions[0], theirs.descriptions[0])
        return self._transferred("put_from", [stored], theirs)

    async def batched_get_into(self, keys: Sequence[Key], theirs: CallerMemory) -> Transferred:
        """One answer per key, in order."""
        found = await self._connector.batched_get_into(keys, theirs.regions, theirs.descriptions)
        return self._transferred("batched_get_into", found, theirs)

    async def batched_put_from(self, keys: Sequence[Key], theirs: CallerMemory) -> Transferred:
        """One answer per key, in order."""
        stored = await self._connector.batched_put_from(keys, theirs.regions, theirs.descriptions)
        return self._transferred("batched_put_from", stored, theirs)

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """One answer per key, in order."""
        return self._flags("batched_exists", await self._connector.batched_exists(keys), len(keys))

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """One answer per key, in order."""
        return self._flags("batched_remove", await self._connector.batched_remove(keys), len(keys))

    async def probe(self, keys: Sequence[Key]) -> None:
        """Asks the store something small about the first key, with the rights that the data path has."""
        await self._connector.exists(keys[0])

    def _transferred(self, operation: str, answers: object, theirs: CallerMemory) -> Transferred:
        # Only True itself: a careless None for success, or a chunk, must not be taken for a verified answer.
        if not isinstance(answers, list) or not all(isinstance(answer, bool) for answer in answers):
            kinds = sorted({type(answer).__qualname__ for answer in answers}) if isinstance(answers, list) else []
            got = f"returned a list of {', '.join(kinds)}" if kinds else f"returned a {type(answers).__qualname__}"
            raise self._contract(operation, got, "a bool per key")
        flags = self._flags(operation, answers, len(theirs.keys))
        return Transferred(flags, sum(item.nbytes for item, flag in zip(theirs.regions, flags, strict=True) if flag))

    def _flags(self, operation: str, found: Sequence[object], wanted: int) -> Flags:
        flags = [bool(item) for item in found]
        if len(flags) != wanted:
            raise self._contract(operation, f"returned {len(flags)} answers", f"{wanted}, one per key")
        return flags

    def _chunk(self, operation: str, found: object) -> MemoryObj | None:
        if found is None:
            return None
        if not isinstance(found, MemoryObj):
            raise self._contract(operation, f"returned a {type(found).__qualname__}", "a MemoryObj, or None for a miss")
        if not found.is_valid():
            raise self._contract(operation, "returned a released MemoryObj", "one with a reference for the caller")
        self._chunk_size.observe(found.get_size())
        return found

    def _contract(self, operation: str, got: str, expected: str) -> ConnectorContractError:
        return ConnectorContractError(self._class_name, operation, got, expected)
