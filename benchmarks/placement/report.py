"""The results of a simulation, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .simulation import Placed

_HEAD = (
    "servers",
    "fewest keys",
    "most keys",
    "deviation",
    "moved by one more",
    "has to move",
    "moved between others",
    "µs a key, batch",
    "µs a key, single",
    "prepared once, ms",
)


def markdown(results: Sequence[Placed]) -> str:
    """The results as a page. Shares of keys are relative to an even share."""
    keys = max(result.keys for result in results)
    lines = [
        "# Placement of keys on several servers",
        "",
        f"`python -m benchmarks.placement`: {keys:,} keys, named as engines name them, and no server at all.",
        "Shares are relative to an even one: 1.10 is a tenth more keys than `keys / servers`. Times are of one core,",
        "the fastest of five rounds.",
    ]
    for kind, title in (("ring", "Ring: several plain servers"), ("cluster", "Cluster: 16,384 slots, spread evenly")):
        rows = [result for result in results if result.kind == kind]
        if rows:
            lines += ["", f"## {title}", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _table(rows: Iterable[Placed]) -> list[str]:
    lines = [f"| {' | '.join(_HEAD)} |", "| " + " | ".join(["---:"] * len(_HEAD)) + " |"]
    for row in rows:
        cells = (
            f"{row.servers:,}",
            f"{row.fewest:.2f}",
            f"{row.most:.2f}",
            f"{row.deviation:.3f}",
            f"{row.moved:.2%}",
            f"{row.ideal:.2%}",
            f"{row.moved_elsewhere}",
            f"{row.batch_us:.2f}",
            f"{row.single_us:.2f}",
            f"{row.prepared_ms:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines
