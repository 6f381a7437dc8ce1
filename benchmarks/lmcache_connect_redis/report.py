"""A run's report, for the terminal and as Markdown."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console
from rich.table import Table

from .comparison import FLOOR, KIB, MIB
from .contenders import ALL
from .contenders.connect import Connect

ORDER: Final = (
    "get GB/s",
    "put GB/s",
    "get CPU s/GB",
    "put CPU s/GB",
    "one get ms",
    "exists k keys/s",
    "get longest loop gap ms",
    "put longest loop gap ms",
)
_MORE_IS_BETTER: Final = ("/s",)


def shown(nbytes: int) -> str:
    """A chunk size in binary units."""
    return "" if not nbytes else f"{nbytes // MIB} MiB" if nbytes >= MIB else f"{nbytes // KIB} KiB"


def times_better(work: str, ours: float, theirs: float) -> float:
    """How many times better `ours` is. For some figures more is better, for others less."""
    more_is_better = work.endswith(_MORE_IS_BETTER)
    return ours / theirs if more_is_better else theirs / ours


def _names(run: dict[str, Any]) -> list[str]:
    there = {name for result in run["results"] for name in result["values"]}
    return [name for name in (*(kind.name for kind in ALL), FLOOR) if name in there]


def _rows(run: dict[str, Any]) -> list[tuple[str, str, dict[str, str]]]:
    """Work, chunk, and what stands in each contender's column: its value, and how many times better ours is."""
    rows = []
    for result in sorted(run["results"], key=lambda result: (ORDER.index(result["work"]), result["chunk_bytes"])):
        work, values = result["work"], result["values"]
        ours = values.get(Connect.name)
        cells = {}
        for name, value in values.items():
            cell = f"{value['median']:.3g}"
            if "p99" in value:
                cell += f" (p99 {value['p99']:.3g})"
            if ours is not None and name != Connect.name and value["median"] and ours["median"]:
                cell += f" · {times_better(work, ours['median'], value['median']):.2f}×"
            cells[name] = cell
        batch = f"{result['chunks']} × {shown(result['chunk_bytes'])}" if result["chunk_bytes"] else "1000 keys"
        rows.append((work, shown(result["chunk_bytes"]) if work == "one get ms" else batch, cells))
    return rows


def _gaps(run: dict[str, Any]) -> list[str]:
    return [
        f"event-loop gap while 32 MiB chunks stream both ways, io={io}: p50 {gap['p50_ms']:.2f} ms, "
        f"p99 {gap['p99_ms']:.2f} ms, longest {gap['longest_ms']:.2f} ms of {gap['gaps']} gaps, "
        f"{gap['longest_unstolen_ms']:.2f} ms where the hypervisor took no time away"
        for io, gap in run["loop_gap"].items()
    ]


def _curves(run: dict[str, Any]) -> list[str]:
    chunks = ", ".join(
        f"{point['count']}: {point['us_per_chunk_put']:.0f} / {point['us_per_chunk_get']:.0f}"
        for point in run["curves"]["chunks"]
    )
    keys = ", ".join(f"{point['count']}: {point['us_per_key']:.2f}" for point in run["curves"]["look_ups"])
    size = shown(run["curves"]["chunk_bytes"])
    return [f"µs per chunk of {size}, put / got, by number: {chunks}", f"µs per look-up, by number: {keys}"]


def show(console: Console, report: dict[str, Any]) -> None:
    """The report as tables."""
    for run in report["runs"]:
        names = _names(run)
        table = Table(title=f"{run['server']} over {run['transport']}, median of {report['rounds']} rounds")
        table.add_column("work")
        table.add_column("batch", justify="right")
        for name in names:
            table.add_column(name, justify="right")
        for work, batch, cells in _rows(run):
            table.add_row(work, batch, *(cells.get(name, "") for name in names))
        console.print(table)
        for line in (
            *_gaps(run),
            *_curves(run),
            *(f"left out: {name}: {why}" for name, why in run["left_out"].items()),
        ):
            console.print(line)
        console.print()
    console.print("“· n×” says how many times better Connect is.")


def markdown(report: dict[str, Any]) -> str:
    """The report for reading on a page."""
    lines = [
        "# Redis speed",
        "",
        f"{report['date']}, {report['machine']}, Python {report['python']}, {report['event_loop']}, "
        f"`{report['command']}`: medians of {report['rounds']} interleaved rounds. "
        "“· n×” says how many times better Connect is.",
    ]
    for run in report["runs"]:
        names = _names(run)
        lines += ["", f"## {run['server']} over {run['transport']}", ""]
        lines += [f"| {' | '.join(('work', 'batch', *names))} |", f"|{' --- |' * (2 + len(names))}"]
        lines += [
            f"| {' | '.join((work, batch, *(cells.get(name, '') for name in names)))} |"
            for work, batch, cells in _rows(run)
        ]
        lines += ["", *(f"* {line}" for line in (*_gaps(run), *_curves(run)))]
        lines += [f"* left out: {name}: {why}" for name, why in run["left_out"].items()]
    return "\n".join(lines) + "\n"
