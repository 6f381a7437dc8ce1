"""A process that measures one client: `python -P -m calls.serve CLIENT`. `side.Side` starts it."""

from __future__ import annotations

import asyncio
import sys

OURS = "ours"


def main() -> None:
    """Serves orders until stdin ends. `--uvloop` as the second argument takes uvloop instead of asyncio's own loop."""
    client, *flags = sys.argv[1:]
    if client == OURS:
        # It comes with the other clients and changes how anyio finds its loop: releases up to 0.1 then use fewer
        # connections. Ours is measured with what it depends on, and so is a base checkout.
        sys.modules["sniffio"] = None  # type: ignore[assignment]
    from .session import session  # it imports anyio

    factory = None
    if "--uvloop" in flags:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(session(client))


if __name__ == "__main__":
    main()
