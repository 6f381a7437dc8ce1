"""A benchmark as a picture: rates and latencies by size, a line for each way of calling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ...errors import InvalidArgumentError, MissingExtraError
from ..frame.sizes import size
from .plan import Mode, Operation
from .report import BenchReport, Figures, Row

KINDS: Final = (".png", ".svg")

_COLOURS: Final = ("#1f6feb", "#d9480f", "#2b8a3e", "#862e9c", "#b08800", "#0b7285", "#c2255c")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
_QUIET: Final = "#57606a"
_STYLE: Final = {
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d0d7de",
    "grid.linewidth": 0.6,
    "svg.hashsalt": "lmcache-connect",
}


def check_plot(path: Path) -> None:
    """Looks whether a picture can be written, before anything is measured.

    Raises:
        InvalidArgumentError: the name ends neither in .png nor in .svg, or its folder is not there.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix.lower() not in KINDS:
        raise InvalidArgumentError("--plot", f"{str(path)!r}; expected a name that ends in {' or '.join(KINDS)}")
    if not path.absolute().parent.is_dir():
        raise InvalidArgumentError("--plot", f"there is no folder {str(path.absolute().parent)!r}")
    _matplotlib()


def write_plot(report: BenchReport, path: Path) -> None:
    """Writes the picture. What is there is replaced.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    matplotlib = _matplotlib()
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **_STYLE}):
        _figure(report).savefig(path, dpi=150)


def _matplotlib() -> Any:
    try:
        import matplotlib.figure
    except ImportError as error:
        raise MissingExtraError("--plot", error.name or "matplotlib", "plot") from error
    return matplotlib


def _figure(report: BenchReport) -> Any:
    figure = _matplotlib().figure.Figure(figsize=(11, 7.6))
    axes = figure.subplots(2, 2)
    ways = list(dict.fromkeys(_way(row.mode) for row in report.rows))
    for row_of_axes, operation in zip(axes, (Operation.PUT, Operation.GET), strict=True):
        rows = [row for row in report.rows if row.operation is operation]
        _draw(row_of_axes[0], rows, ways, "rate")
        _draw(row_of_axes[1], rows, ways, "p50")
        row_of_axes[0].set_title(f"{operation.value}: GB/s", loc="left", fontsize=12, fontweight="bold")
        row_of_axes[1].set_title(f"{operation.value}: ms for a call, p50", loc="left", fontsize=12, fontweight="bold")
    figure.subplots_adjust(left=0.07, right=0.98, top=0.83, bottom=0.08, hspace=0.35, wspace=0.16)
    figure.text(0.03, 0.975, "lmcache-connect bench", fontsize=15, fontweight="bold", va="top")
    figure.text(0.03, 0.935, _about(report), fontsize=9.5, color=_QUIET, va="top", linespacing=1.4)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", bbox_to_anchor=(0.985, 0.985), ncols=2, fontsize=9, frameon=False)
    return figure


def _about(report: BenchReport) -> str:
    stores = [f"store: {_short(report.store)}"]
    if report.against is not None:
        stores.append(f"other, dashed: {_short(report.against)}")
    return "\n".join(stores)


def _short(url: str) -> str:
    plain = url.partition("?")[0]
    return plain if len(plain) <= 90 else f"{plain[:87]}..."


def _draw(axis: Any, rows: Sequence[Row], ways: Sequence[str], what: str) -> None:
    sizes = list(dict.fromkeys(row.nbytes for row in rows))
    for at, way in enumerate(ways):
        own = [row for row in rows if _way(row.mode) == way]
        if not own:
            continue
        style = {"color": _COLOURS[at % len(_COLOURS)], "marker": _MARKERS[at % len(_MARKERS)], "markersize": 5}
        places = [sizes.index(row.nbytes) for row in own]
        axis.plot(places, [_value(row.figures, what) for row in own], label=way, linewidth=1.8, **style)
        others = [(place, row.other) for place, row in zip(places, own, strict=True) if row.other is not None]
        if others:
            values = [_value(other, what) for _, other in others]
            hollow = {**style, "markerfacecolor": "white"}
            axis.plot([place for place, _ in others], values, linewidth=1.4, linestyle="--", **hollow)
    axis.set_xticks(range(len(sizes)), [size(nbytes) for nbytes in sizes])
    axis.set_xlim(-0.3, max(len(sizes) - 0.7, 0.3))
    axis.tick_params(labelsize=9.5, length=0)
    if what == "rate":
        axis.set_ylim(bottom=0)
    else:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _value(figures: Figures, what: str) -> float:
    return figures.rate / 1e9 if what == "rate" else (figures.p50 or 0.0) * 1e3


def _way(mode: Mode) -> str:
    return "batch" if mode.batch > 1 else str(mode)
