"""One process of a storm that puts and gets: `python -m tests.chaos.child`.

It says `ready` once it has imported everything. Then it reads its orders, one line of JSON, and acts.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading

from .crew import Crew, Orders
from .journal import Journal


def main() -> None:
    """Acts as it is ordered. Ends when its input ends: then the main process has gone."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    orders = Orders(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(Crew(orders, Journal(orders.journal_path())).run())


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(3)


if __name__ == "__main__":
    main()
