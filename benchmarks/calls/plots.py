"""Draws a report of the benchmark of calls: SVG and PNG, without a display.

It needs matplotlib (`make bench-setup`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from .. import figures
from ..figures import GROUP, INK, OTHER
from .comparison import in_order
from .results import BASE, OURS

COLOURS: Final = {
    OURS: "#d1410c",
    BASE: "#eda98c",
    "valkey-glide": "#77936f",
    "2 × valkey-glide": "#4c6145",
    "coredis": "#bcc9a4",
    "redis-py, pool of 50": "#b9a7bd",
    "redis-py": "#b9a7bd",
}
BATCH: Final = {OURS: "#54708f", BASE: "#9fb6cd"}
"""The batch that single calls are compared with."""
ROOM: Final = 1.2
"""The height of an axis, of its highest bar. A whisker that is longer leaves it."""

CROWD: Final = 12
"""Bars of one axis. Where there are more, their labels are smaller."""


@dataclass(frozen=True)
class _Bar:
    label: str
    colour: str
    side: str
    figure: str
    per: float = 1.0
    """What one unit of the axis is, in units of the figure."""


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes a figure for each kind of work in the report, each as `.svg` and `.png`, and creates the folder.

    Returns the paths written.

    Raises:
        ImportError: matplotlib is not installed.
    """
    made = {
        "calls_together": _together,
        "calls_one_batch": _one_batch,
        "calls_one_and_threads": _one_and_threads,
        "calls_busy": _busy,
    }
    return figures.write({name: partial(figure, report) for name, figure in made.items()}, folder)


def _results(report: Mapping[str, Any], part: str, **fields: object) -> list[Any]:
    return [
        result
        for result in report["results"]
        if result["part"] == part and all(result[name] == value for name, value in fields.items())
    ]


def _bars_of(results: Sequence[Any], figure: str) -> list[_Bar]:
    sides = in_order({side for result in results for side in result["sides"]})
    return [_Bar(side, COLOURS.get(side, OTHER), side, figure) for side in sides]


def _note(report: Mapping[str, Any]) -> str:
    return f"Median of {report['rounds']} interleaved rounds, whiskers from the lowest to the highest, cut at the axis."


def _together(report: Mapping[str, Any]) -> Any:
    """Microseconds a call: an axis per kind of call."""
    results = _results(report, "together")
    kinds = list(dict.fromkeys((result["operation"], result["nbytes"]) for result in results))
    if not kinds:
        return None
    title = "µs for each of many concurrent calls (less is better)"
    figure, [axes] = figures.figure(report, title, _note(report), rows=1, columns=len(kinds), row_height=3.0)
    bars = _bars_of(results, "us")
    for ax, (operation, nbytes) in zip(axes, kinds, strict=True):
        there = _results(report, "together", operation=operation, nbytes=nbytes)
        ticks = [f"{result['calls']:,} at a time" for result in there]
        _groups(ax, [result["sides"] for result in there], bars, ticks)
        _title(ax, f"{operation} of {figures.size(nbytes)}" if nbytes else operation)
    _legend(figure, bars)
    return figure


def _one_batch(report: Mapping[str, Any]) -> Any:
    """GB/s of single calls and of a batch: a row per direction, a column per store."""
    results = _results(report, "one-batch")
    stores = list(dict.fromkeys(result["store"] for result in results))
    operations = list(dict.fromkeys(result["operation"] for result in results))
    if not results:
        return None
    title = "GB/s of concurrent single calls, and of one batch of the same chunks"
    figure, axes = figures.figure(
        report, title, _note(report), rows=len(operations), columns=len(stores), row_height=2.55
    )
    bars = []
    for side in in_order({side for result in results for side in result["sides"]}):
        bars.append(_Bar(f"{side}: single calls", COLOURS[side], side, "alone GB/s"))
        bars.append(_Bar(f"{side}: one batch", BATCH[side], side, "batch GB/s"))
    for row, operation in zip(axes, operations, strict=True):
        for ax, store in zip(row, stores, strict=True):
            there = _results(report, "one-batch", store=store, operation=operation)
            ticks = [f"{result['calls']} × {figures.size(result['nbytes'])}" for result in there]
            _groups(ax, [result["sides"] for result in there], bars, ticks)
            if operation == operations[0]:
                _title(ax, store)
        row[0].set_ylabel(f"{operation}, GB/s")
    _legend(figure, bars)
    return figure


def _one_and_threads(report: Mapping[str, Any]) -> Any:
    """Microseconds of one call after the other, and of blocking calls."""
    parts = {"one": "awaited, one after the other: p50", "threads": "blocking, from threads"}
    there = {part: _results(report, part) for part in parts if _results(report, part)}
    if not there:
        return None
    title = "µs for each call (less is better)"
    figure, [axes] = figures.figure(report, title, _note(report), rows=1, columns=len(there), row_height=3.0)
    bars = _bars_of([result for results in there.values() for result in results], "us")
    for ax, (part, results) in zip(axes, there.items(), strict=True):
        ticks = [result["title"].replace(", ", "\n").removeprefix("sync.") for result in results]
        _groups(ax, [result["sides"] for result in results], bars, ticks)
        _title(ax, parts[part])
    _legend(figure, bars)
    return figure


def _busy(report: Mapping[str, Any]) -> Any:
    """Milliseconds of a look-up beside streams."""
    results = _results(report, "busy")
    if not results:
        return None
    title = "ms of a lone look-up while 32 MiB chunks stream both ways"
    figure, [axes] = figures.figure(report, title, _note(report), rows=1, columns=3, row_height=2.6)
    bars = _bars_of(results, "us")
    for ax, (name, label) in zip(axes, {"p50 us": "p50", "us": "p99", "longest us": "longest"}.items(), strict=True):
        each = [_Bar(bar.label, bar.colour, bar.side, name, 1e3) for bar in bars]
        _groups(ax, [result["sides"] for result in results], each, [label])
    _legend(figure, bars)
    return figure


def _groups(ax: Any, groups: Sequence[Mapping[str, Any]], bars: Sequence[_Bar], ticks: Sequence[str]) -> None:
    width = GROUP / max(1, len(bars))
    tallest = 0.0
    for group, sides in enumerate(groups):
        for slot, bar in enumerate(bars):
            value = sides.get(bar.side, {}).get(bar.figure)
            if value is None:
                continue  # it does not take part in this: a gap
            centre = group - GROUP / 2 + (slot + 0.5) * width
            median, low, high = (value[name] / bar.per for name in ("median", "low", "high"))
            tallest = max(tallest, median)
            ax.bar(centre, median, width * 0.9, color=bar.colour)
            ax.vlines(centre, low, high, color=INK, linewidth=0.7, alpha=0.75)
            ax.annotate(
                f"{median:.0f}" if median >= 10 else f"{median:.2g}",
                (centre, median),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8 if len(groups) * len(bars) <= CROWD else 7,
                fontweight="bold" if bar.side == OURS else "normal",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.1},
            )
    ax.set_xticks(range(len(groups)), ticks)
    ax.tick_params(axis="x", length=0, labelsize=9)
    ax.tick_params(axis="y", labelleft=True)
    ax.set_ylim(0, tallest * ROOM or 1.0)
    ax.margins(x=0.02)
    ax.grid(axis="y")


def _title(ax: Any, text: str) -> None:
    ax.set_title(text, loc="left", fontsize=11.5, fontweight="bold", pad=10)


def _legend(figure: Any, bars: Sequence[_Bar]) -> None:
    figures.legend(figure, [figures.patch(bar.colour, bar.label) for bar in bars])
