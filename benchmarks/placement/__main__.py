"""Simulates the placement of keys, prints a table, and writes it: `python -m benchmarks.placement`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from .report import markdown
from .simulation import cluster, key_names, ring

RINGS: Final = (3, 10, 100)
CLUSTERS: Final = (3, 100, 1000)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the simulation."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.placement", description="Where keys are placed on several servers, and at what cost"
    )
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rings", type=int, nargs="*", default=RINGS, metavar="SERVERS")
    parser.add_argument("--clusters", type=int, nargs="*", default=CLUSTERS, metavar="SERVERS")
    parser.add_argument("--output", type=Path, help="a folder for placement.json and placement.md")
    chosen = parser.parse_args(arguments)
    names = key_names(chosen.keys)
    results = [ring(servers, names) for servers in chosen.rings]
    results += [cluster(servers, names) for servers in chosen.clusters]
    page = markdown(results)
    print(page, end="")
    if chosen.output is not None:
        chosen.output.mkdir(parents=True, exist_ok=True)
        rows = [asdict(result) for result in results]
        (chosen.output / "placement.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        (chosen.output / "placement.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
