"""Draws a report of the Redis benchmark: SVG and PNG, without a display.

    from benchmarks.lmcache_connect_redis.plots import draw
    draw(json.loads(Path("benchmarks/results/redis_speed.json").read_text()), Path("docs/figures"))

It needs matplotlib (`make bench-setup`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .. import figures
from ..figures import GROUP, INK, OTHER

OURS: Final = "Connect"
COLOURS: Final = {
    OURS: "#d1410c",
    "LMCache resp://": "#54708f",
    "LMCache redis://": "#9fb6cd",
    "valkey-glide": "#77936f",
    "coredis": "#bcc9a4",
    "plain redis-py": "#b9a7bd",
}
"""In the order of the bars. Ours is the one strong colour; the others differ in lightness too, for eyes and printers
that see no hue."""
FLOOR: Final = "bare sockets"

SPEEDS: Final = {"get GB/s": "get, GB/s", "put GB/s": "put, GB/s"}


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes `redis_one_get`, `redis_speed` and `redis_curves`, each as `.svg` and `.png`, into `folder`.

    Creates the folder where it is missing.

    Returns the paths written. A figure without data in the report is left out.

    Raises:
        ImportError: matplotlib is not installed.
    """
    return figures.write(
        {
            "redis_one_get": lambda: _one_get(report),
            "redis_speed": lambda: _speed(report),
            "redis_curves": lambda: _curves(report),
        },
        folder,
    )


# ---------------------------------------------------------------------------------------------------- one get


def _one_get(report: Mapping[str, Any]) -> Any:
    """Horizontal bars: the milliseconds of one get of the largest chunk, a column for each server over TCP."""
    runs = [run for run in report["runs"] if run["transport"] == "tcp"]
    gets = [entry for run in runs for entry in run["results"] if entry["work"] == "one get ms"]
    if not gets:
        return None
    largest = max(map(_chunk_bytes, gets))
    figure, [axes] = figures.figure(
        report,
        f"One chunk of {figures.size(largest)} from Redis or Valkey, in milliseconds",
        f"Shorter is better. {OURS} verifies a checksum; of the others, plain redis-py alone does.",
        rows=1,
        columns=len(runs),
        row_height=2.0,
    )
    no_legend = figure.subplotpars.top + 0.3 / figure.get_figheight()
    figure.subplots_adjust(left=0.135, top=no_legend, wspace=0.32)
    longest = max(median for entry in gets if _chunk_bytes(entry) == largest for median in _medians(entry).values())
    for ax, run in zip(axes, runs, strict=True):
        (entry,) = (each for each in run["results"] if each["work"] == "one get ms" and _chunk_bytes(each) == largest)
        medians = _medians(entry)
        rows = range(len(medians))
        ax.barh(rows, medians.values(), 0.72, color=[COLOURS[name] for name in medians])
        for row, (name, median) in enumerate(medians.items()):
            weight = "bold" if name == OURS else "normal"
            ax.annotate(
                f"{median:.0f}", (median, row), (4, 0), textcoords="offset points", va="center", fontweight=weight
            )
        ax.set_yticks(rows, medians)
        ax.get_yticklabels()[0].set_fontweight("bold" if OURS in medians else "normal")
        ax.invert_yaxis()
        ax.set_title(run["server"], loc="left", fontsize=11.5, fontweight="bold", pad=8)
        ax.set_xlim(0, longest * 1.12)
        ax.grid(axis="x")
    return figure


def _medians(entry: Mapping[str, Any]) -> dict[str, float]:
    """The clients with a colour that were measured, in the order of the colours."""
    return {name: entry["values"][name]["median"] for name in COLOURS if name in entry["values"]}


# ------------------------------------------------------------------------------------------------------ speed


def _speed(report: Mapping[str, Any]) -> Any:
    """Bars of GB/s: a row per direction, a column per server over TCP, a group per chunk size."""
    runs = [run for run in report["runs"] if run["transport"] == "tcp"]
    if not runs:
        return None
    entries = [entry for run in runs for entry in run["results"] if entry["work"] in SPEEDS]
    names = _in_order({name for entry in entries for name in entry["values"] if name in COLOURS})
    note = f"Median of {report['rounds']} rounds, whiskers from the slowest to the fastest."
    if any(name not in entry["values"] for entry in entries for name in names):
        note += " A gap: not measured."
    figure, axes = figures.figure(
        report,
        f"GB/s to and from {' and '.join(run['server'] for run in runs)} over TCP, by chunk size",
        note,
        rows=len(SPEEDS),
        columns=len(runs),
        row_height=2.55,
        share="row",
    )
    for row, (work, label) in enumerate(SPEEDS.items()):
        for column, run in enumerate(runs):
            ax = axes[row][column]
            results = sorted((each for each in run["results"] if each["work"] == work), key=_chunk_bytes)
            _bars(ax, results, names)
            if row == 0:
                ax.set_title(run["server"], loc="left", fontsize=11.5, fontweight="bold", pad=10)
            if column == 0:
                ax.set_ylabel(label)
    figure.align_ylabels([row[0] for row in axes])
    handles = [figures.patch(COLOURS.get(name, OTHER), name) for name in names]
    if any(FLOOR in entry["values"] for entry in entries):
        handles.append(figures.line(FLOOR))
    figures.legend(figure, handles)
    return figure


def _bars(ax: Any, results: Sequence[Any], names: Sequence[str]) -> None:
    width = GROUP / max(1, len(names))
    tallest = max((entry["values"][name]["high"] for entry in results for name in entry["values"]), default=0.0)
    for group, entry in enumerate(results):
        left = group - GROUP / 2
        for slot, name in enumerate(names):
            value = entry["values"].get(name)
            if value is None:
                continue  # it does not support this: a gap
            centre = left + (slot + 0.5) * width
            ax.bar(centre, value["median"], width * 0.9, color=COLOURS.get(name, OTHER))
            ax.vlines(centre, value["low"], value["high"], color=INK, linewidth=0.7, alpha=0.75)
            if name == OURS and value["median"] > tallest / 5:
                # At the foot of the bar, where neither whisker nor floor crosses it.
                ax.annotate(
                    f"{value['median']:.1f}",
                    (centre, 0),
                    xytext=(0.5, 5),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                    rotation=90,
                    fontsize=10,
                    fontweight="bold",
                    color="white",
                )
        floor = entry["values"].get(FLOOR)
        if floor is not None:
            ax.hlines(floor["median"], left, left + GROUP, color=INK, linewidth=1.1)
    ax.set_xticks(range(len(results)), [figures.size(entry["chunk_bytes"]) for entry in results])
    ax.tick_params(axis="x", length=0)
    ax.tick_params(axis="y", labelleft=True)
    ax.set_ylim(bottom=0)
    ax.margins(x=0.02)
    ax.grid(axis="y")


# ----------------------------------------------------------------------------------------------------- curves


def _curves(report: Mapping[str, Any]) -> Any:
    """The cost of one chunk, and of one look-up, by the size of the batch."""
    curves = report.get("curves") or {}
    chunks, look_ups = curves.get("chunks", []), curves.get("look_ups", [])
    if not (chunks or look_ups):
        return None
    figure, [[left, right]] = figures.figure(
        report, f"{OURS}: microseconds per chunk and per look-up, by batch", "", rows=1, columns=2, row_height=3.2
    )
    sizes = {row["chunk_bytes"] for row in chunks if "chunk_bytes" in row}
    of = f" of {figures.size(sizes.pop())}" if len(sizes) == 1 else ""
    puts = _Curve("put", COLOURS["LMCache resp://"], "s", [(row["count"], row["us_per_chunk_put"]) for row in chunks])
    gets = _Curve("get", COLOURS[OURS], "o", [(row["count"], row["us_per_chunk_get"]) for row in chunks])
    _lines(left, [puts, gets], f"µs per chunk{of}", "chunks in the batch")
    found = _Curve("exists", COLOURS[OURS], "o", [(row["count"], row["us_per_key"]) for row in look_ups])
    _lines(right, [found], "µs per look-up", "keys in the batch")
    return figure


@dataclass(frozen=True)
class _Curve:
    label: str
    colour: str
    marker: str
    points: Sequence[tuple[int, float]]


def _lines(ax: Any, curves: Sequence[_Curve], title: str, label: str) -> None:
    """The curves, and a legend that says where each begins and ends."""
    drawn = [curve for curve in curves if curve.points]
    for curve in drawn:
        counts, values = zip(*sorted(curve.points), strict=True)
        first = "alone" if counts[0] == 1 else f"in {counts[0]:,}"
        said = f"{curve.label}: {values[0]:.3g} {first}, {values[-1]:.3g} in {counts[-1]:,}"
        line = {"color": curve.colour, "marker": curve.marker, "markersize": 5, "linewidth": 2}
        ax.plot(counts, values, label=said, clip_on=False, zorder=3, **line)
    if drawn:
        ax.legend(loc="best", labelcolor="linecolor", handlelength=1.6)
    ax.set_title(title, loc="left", fontsize=11.5, fontweight="bold", pad=10)
    ax.set_xlabel(label)
    ax.set_xscale("log")
    ticks = _spread([count for curve in drawn for count, _ in curve.points])
    ax.set_xticks(ticks, [f"{count:,}" for count in ticks])
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    ax.grid(axis="y")


def _spread(counts: Sequence[int]) -> list[int]:
    """The counts whose labels do not overlap on a logarithmic axis, and always the last one."""
    kept: list[int] = []
    apart = (max(counts) / min(counts)) ** 0.09 if counts else 1.0
    for count in sorted(set(counts), reverse=True):
        if not kept or kept[-1] / count >= apart:
            kept.append(count)
    return kept[::-1]


def _in_order(names: set[str]) -> list[str]:
    return [name for name in COLOURS if name in names] + sorted(names - set(COLOURS))


def _chunk_bytes(entry: Mapping[str, Any]) -> int:
    size: int = entry["chunk_bytes"]
    return size
