"""Rules for making a connector: it asks nothing, blocks nothing, and every way of opening gives the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ...managed import ManagedConnector
from ..loop_io import LoopIO
from ..loop_watch import LoopWatch
from ..subject import Subject, check_payload, rule
from .loops import LONGEST_GAP, TRIES


class OpeningRules:
    """Part of `ConnectorConformance`."""

    limit: float
    url: str

    @rule
    async def test_making_a_connector_asks_nothing_and_does_not_block_the_loop(self, subject: Subject) -> None:
        """`create_connector` runs on the loop. Connecting, opening and resolving belong in the first call."""
        gaps = []
        for _ in range(TRIES):
            async with LoopWatch() as watch:
                with LoopIO(everywhere=True) as io:  # some are made in a thread
                    made = await subject.another()
            await made.close()
            assert not io.opened, (
                f"making a connector did {', '.join(io.opened)}; do it in the first call that needs it, and off the "
                "event loop where it blocks"
            )
            gaps.append(watch.longest)
            if watch.longest < LONGEST_GAP:
                return
        raise AssertionError(
            f"making a connector held the event loop for {min(gaps):.3f} s at best; expected under {LONGEST_GAP} s"
        )

    @rule
    async def test_a_connector_that_was_opened_off_the_loop_is_the_same(self, subject: Subject) -> None:
        """`open_connector` imports in a thread, for engines that cannot wait. The connector is one as any other."""
        if not self.url:
            import pytest

            pytest.skip("the suite has no url, which open_connector() opens")
        manager = subject.manager
        key = subject.key()
        open_it: tuple[Callable[[], Awaitable[ManagedConnector]], ...] = (
            lambda: manager.open_connector(self.url),
            lambda: asyncio.to_thread(manager.create_connector, self.url),
        )
        for version, opening in enumerate(open_it):
            try:
                opened = await opening()
            except Exception as error:
                raise AssertionError(
                    f"making one more connector, outside the loop's thread, raised {error!r}; share the store with "
                    "others, use the loop of the context, and begin what needs a running loop in the first call"
                ) from error
            with subject.chunk(key, version=version) as obj:
                await opened.put(key, obj)
            check_payload(await opened.get(key), key, 4096, version=version)
            await opened.close()
