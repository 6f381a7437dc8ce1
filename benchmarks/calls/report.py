"""A run's report, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from .case import AGAINST_BATCH
from .comparison import in_order
from .results import BASE, OURS, best

TITLES: Final = {
    "together": "Concurrent single calls, µs for each call",
    "one-batch": "Concurrent single calls against one batch of the same chunks, GB/s",
    "memory": "Batches in memory of the caller (batched_get_into, batched_put_from) against batches in the arena, GB/s",
    "one": "One call after the other, p50 in µs",
    "threads": "Blocking calls, µs for each call",
    "busy": "A lone look-up while 32 MiB chunks stream both ways",
}
BARS: Final = {
    "together": "against the fastest client",
    "one-batch": "singles against batch",
    "memory": "caller's memory against arena",
    "one": "against redis-py",
    "threads": "against redis-py",
    "busy": "p99 against base",
}
WHY: Final = (
    "Medians of the rounds, with the best round in brackets. A ratio is taken in each round, and its median is shown, "
    "with the ratio of the best rounds in brackets. CPU is that of the client's process, all threads."
)


def tables(report: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of one table for each part, and of one for its CPU time."""
    made = []
    for part, title in TITLES.items():
        results = [result for result in report["results"] if result["part"] == part]
        if not results:
            continue
        sides = in_order({side for result in results for side in result["sides"]})
        if part in AGAINST_BATCH:
            made.append(_batches(part, title, results, sides))
        elif part == "busy":
            made.append(_busy(title, results, sides))
        else:
            made.append(_times(part, title, results, sides))
            made.append(_cpu(part, title, results, sides))
        if part == "together" and (consists := _consists(results))[2]:
            made.append(consists)
    return made


def _consists(results: Sequence[dict[str, Any]]) -> tuple[str, list[str], list[list[str]]]:
    """What a concurrent call of ours consists of. The rest is its own frame: deadline, breaker, counters, queue."""
    rows = []
    for result in results:
        ours = result["sides"].get(OURS, {})
        names = ("cpu us", "waiting cpu us", "batch cpu us")
        if not all(name in ours for name in names):
            continue
        whole, waiting, batch = (best(name, ours[name]) for name in names)
        rivals = [side for side in result["sides"] if side not in {OURS, BASE}]
        least = min((best("cpu us", result["sides"][side]["cpu us"]) for side in rivals), default=None)
        cells = [whole, waiting, batch, whole - waiting - batch]
        rows.append([result["title"], *map(_number, cells), "" if least is None else _number(least)])
    heads = ["work", "ours", "a task that waits", "its share of one batch", "the rest", "the most frugal client"]
    return "What a concurrent single call consists of, µs of CPU, best rounds", heads, rows


def _times(
    part: str, title: str, results: Sequence[dict[str, Any]], sides: Sequence[str]
) -> tuple[str, list[str], list[list[str]]]:
    rows = [
        [result["title"], *(_cell(result, side, "us") for side in sides), *_verdict(result, sides)]
        for result in results
    ]
    return title, ["work", *sides, *_heads(part, sides)], rows


def _cpu(
    part: str, title: str, results: Sequence[dict[str, Any]], sides: Sequence[str]
) -> tuple[str, list[str], list[list[str]]]:
    compared = [side for side in (OURS, BASE) if any(side in result["cpu_ratio"] for result in results)]
    heads = [f"{side} {BARS[part].replace('fastest', 'most frugal')}" for side in compared]
    rows = []
    for result in results:
        ratios = [result["cpu_ratio"].get(side) for side in compared]
        cells = ["" if ratio is None else f"{ratio['median']:.2f} ×" for ratio in ratios]
        rows.append([result["title"], *(_cell(result, side, "cpu us") for side in sides), *cells])
    return f"{title.split(',', maxsplit=1)[0]}, µs of CPU for each call", ["work", *sides, *heads], rows


def _batches(
    part: str, title: str, results: Sequence[dict[str, Any]], sides: Sequence[str]
) -> tuple[str, list[str], list[list[str]]]:
    way = AGAINST_BATCH[part]
    ways = (f"{way} GB/s", "batch GB/s", f"{way} CPU s/GB", "batch CPU s/GB")
    rows = [
        [result["title"], *(_cell(result, side, way) for side in sides for way in ways), *_verdict(result, sides)]
        for result in results
    ]
    one, other = ("singles", "batch") if part == "one-batch" else ("caller's memory", "arena")
    names = (one, other, f"{one}, CPU s/GB", f"{other}, CPU s/GB")
    return title, ["work", *(f"{side}: {way}" for side in sides for way in names), *_heads(part, sides)], rows


def _busy(
    title: str, results: Sequence[dict[str, Any]], sides: Sequence[str]
) -> tuple[str, list[str], list[list[str]]]:
    figures = {"p50 us": "p50, µs", "us": "p99, µs", "longest us": "longest, µs", "GB/s": "streams, GB/s"}
    rows = [
        [result["title"], *(_cell(result, side, name) for side in sides for name in figures), *_verdict(result, sides)]
        for result in results
    ]
    return (
        title,
        ["work", *(f"{side}: {name}" for side in sides for name in figures.values()), *_heads("busy", sides)],
        rows,
    )


def _heads(part: str, sides: Sequence[str]) -> list[str]:
    heads = [f"ours {BARS[part]}"]
    if BASE in sides and part != "busy":
        heads.append(f"base {BARS[part]}")
    return [*heads, "at least" if part in AGAINST_BATCH else "at most", "reached"]


def _verdict(result: dict[str, Any], sides: Sequence[str]) -> list[str]:
    cells = []
    for side in (OURS, BASE) if BASE in sides and result["part"] != "busy" else (OURS,):
        ratio = result["ratio"].get(side)
        cells.append("" if ratio is None else f"{ratio['median']:.2f} × ({ratio['of_best']:.2f})")
    ours = result["ratio"].get(OURS)
    return [*cells, f"{result['bar']:g} ×", "" if ours is None else "yes" if ours["reached"] else "no"]


def _cell(result: dict[str, Any], side: str, name: str) -> str:
    value = result["sides"].get(side, {}).get(name)
    if value is None:
        return ""
    return f"{_number(value['median'])} ({_number(best(name, value))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show(console: Console, report: dict[str, Any]) -> None:
    """The report as tables."""
    for title, heads, rows in tables(report):
        table = Table(title=title)
        table.add_column(heads[0])
        for head in heads[1:]:
            table.add_column(head, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for name, why in report["left_out"].items():
        console.print(f"left out: {name}: {why}")
    console.print(WHY)


def markdown(report: dict[str, Any]) -> str:
    """The report for reading on a page."""
    lines = [
        "# What calls cost",
        "",
        f"{report['date']}, {report['machine']}, Python {report['python']}, {report['event_loop']}, "
        f"{', '.join(report['stores'])}, `{report['command']}`: {report['rounds']} interleaved rounds. {WHY}",
    ]
    for title, heads, rows in tables(report):
        lines += ["", f"## {title}", "", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    if report["left_out"]:
        lines += ["", *(f"* left out: {name}: {why}" for name, why in report["left_out"].items())]
    return "\n".join(lines) + "\n"
