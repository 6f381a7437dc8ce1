"""A picture of a soak: throughput, calls and the process over time, with the faults as bands."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ...errors import InvalidArgumentError, MissingExtraError
from .report import SoakReport

_SUFFIXES: Final = (".png", ".svg")
_INK: Final = "#333333"
_LINE: Final = "#1f77b4"
_BANDS: Final = ("#d95f02", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#1b9e77", "#666666", "#e6ab02")


def check_plot(path: Path) -> None:
    """To be called before a run, so that a run of an hour does not end without its picture.

    Raises:
        InvalidArgumentError: the name does not end with .png or .svg, or its folder is not there.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise InvalidArgumentError("plot", f"{path.name!r} is not a picture; expected a name with .png or .svg")
    if not path.absolute().parent.is_dir():
        raise InvalidArgumentError("plot", f"there is not a folder {str(path.parent)!r}; expected one that exists")
    _matplotlib()


def plot_soak(report: SoakReport, path: Path) -> None:
    """Writes the picture to `path`, as PNG or SVG."""
    figures = _matplotlib()
    figure = figures.Figure(figsize=(12, 9), dpi=110, layout="constrained")
    rates, calls, memory, others = figure.subplots(4, 1, sharex=True, height_ratios=(3, 1.5, 1.5, 1.5))
    times = [second.at for second in report.timeline]
    rates.plot(times, [second.bytes_per_second / 1e6 for second in report.timeline], color=_LINE, linewidth=1.2)
    rates.axhline(report.calm_bytes_per_second / 1e6, color=_INK, linewidth=0.8, linestyle=":")
    rates.set_ylabel("MB/s")
    calls.plot(times, [second.calls_per_second for second in report.timeline], color=_LINE, linewidth=1.2)
    calls.set_ylabel("calls/s")
    memory.plot(times, [second.rss / (1 << 20) for second in report.timeline], color=_LINE, linewidth=1.2)
    memory.set_ylabel("memory, MiB")
    for what, color in (("descriptors", _LINE), ("threads", "#d95f02"), ("tasks", "#1b9e77")):
        values = [getattr(second, what) for second in report.timeline]
        others.plot(times, values, color=color, linewidth=1.2, label=what)
    others.set_ylabel("in use")
    others.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=3, frameon=False, fontsize=8)
    others.set_xlabel("seconds")
    _draw_bands(report, (rates, calls, memory, others))
    for axes in (rates, calls, memory, others):
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    others.set_xlim(0, max(report.seconds, 1.0))
    where = report.store if report.server is None else report.server
    verdict = "good" if report.ok else "not good: " + "; ".join(report.complaints)
    rates.set_title(f"soak of {where}, {report.seconds:.0f} s, seed {report.seed}: {verdict}", fontsize=10, loc="left")
    figure.savefig(path)


def _draw_bands(report: SoakReport, all_axes: tuple[Any, ...]) -> None:
    kinds = list(dict.fromkeys(fault.kind for fault in report.faults))
    named: set[str] = set()
    for fault in report.faults:
        color = _BANDS[kinds.index(fault.kind) % len(_BANDS)]
        # A fault of a moment would not be seen.
        end = max(fault.ended, fault.begun + report.seconds / 400)
        for axes in all_axes:
            name = fault.kind if axes is all_axes[0] and fault.kind not in named else None
            axes.axvspan(fault.begun, end, color=color, alpha=0.25, linewidth=0, label=name)
        named.add(fault.kind)
    if named:
        all_axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=6, frameon=False, fontsize=8)


def _matplotlib() -> Any:
    try:
        # The figure alone: pyplot would look for a screen, and keep the figure.
        import matplotlib.figure as figures
    except ImportError as error:
        raise MissingExtraError("--plot", error.name or "matplotlib", "plot") from error
    return figures
