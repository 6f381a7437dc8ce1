"""A process that measures one client: `python -P -m calls.serve CLIENT`. `side.Side` starts it.

Each line on stdin is an order in JSON, and each gets one line of JSON as its answer: `{"open": case, "url": url}`,
then `{"round": number}` for each round, then `{"close": true}`. When stdin ends, the process ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from .case import Case
from .clients import MissingClientError
from .work import WORK, Work


async def _serve(client: str) -> None:
    work: Work | None = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        answer: dict[str, Any] = {}
        if "open" in order:
            case = Case(**order["open"])
            work = WORK[case.part](case, client, order["url"])
            try:
                await work.open()
            except MissingClientError as missing:
                await work.stack.aclose()
                answer = {"missing": str(missing)}
        elif work is None:
            raise RuntimeError(f"no case is open for {order}")
        elif "round" in order:
            answer = {"figures": await work.round(order["round"])}
        else:
            await work.stack.aclose()
            work = None
        print(json.dumps(answer), flush=True)


def main() -> None:
    """Serves orders until stdin ends. `--uvloop` as the second argument takes uvloop instead of asyncio's own loop."""
    client, *flags = sys.argv[1:]
    factory = None
    if "--uvloop" in flags:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(client))


if __name__ == "__main__":
    main()
