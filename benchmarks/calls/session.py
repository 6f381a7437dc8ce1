"""`session`: what a side's process does.

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


async def session(client: str) -> None:
    """Measures one client until stdin ends."""
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
