"""How the transfers of one event loop share its time."""

from __future__ import annotations

import asyncio

import pytest

from lmcache_connect.testing import ScriptedWire
from lmcache_connect.transport.turns import LOOP_TURN_BYTES, MIN_TURN_BYTES, Turns, turns_of


@pytest.mark.parametrize(
    ("transfers", "expected"),
    [(0, LOOP_TURN_BYTES), (1, LOOP_TURN_BYTES), (4, LOOP_TURN_BYTES // 4), (1000, MIN_TURN_BYTES)],
)
def test_the_more_transfers_there_are_the_smaller_is_the_turn_of_each(transfers: int, expected: int) -> None:
    turns = Turns()
    turns.transfers = transfers
    assert turns.turn_bytes() == expected


@pytest.mark.asyncio
async def test_a_transfer_leaves_the_loop_to_others_after_its_turn() -> None:
    size = 4 * LOOP_TURN_BYTES
    stream = ScriptedWire(bytes(size)).loop_stream()
    iterations = 0

    async def count() -> None:
        nonlocal iterations
        while True:
            iterations += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    await stream.receive_into(memoryview(bytearray(size)))
    counting.cancel()
    assert iterations >= 3
    assert turns_of(asyncio.get_running_loop()).transfers == 0
    stream.close()


@pytest.mark.asyncio
async def test_short_transfers_in_a_row_leave_the_loop_to_others_as_well() -> None:
    nbytes = MIN_TURN_BYTES // 2
    stream = ScriptedWire(*[bytes(nbytes)] * 100).loop_stream()
    has_run = asyncio.Event()
    asyncio.get_running_loop().call_soon(has_run.set)
    dest = memoryview(bytearray(nbytes))
    for _ in range(100):
        await stream.receive_into(dest)
    assert has_run.is_set()
    stream.close()
