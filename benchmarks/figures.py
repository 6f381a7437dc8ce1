"""The look of the benchmarks' figures, and what every one of them has: a title, where its numbers come from, a legend.

Every figure has an opaque white ground, so that it reads the same on a light page and on a dark one, and is made to be
shown 1000 pixels wide. It needs matplotlib (`make bench-setup`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20

INK, QUIET, HAIR = "#1f2933", "#5f6b7a", "#e3e7ec"
OTHER: Final = "#c4c4c4"

WIDTH: Final = 10.0  # inches, of 100 pixels each on a page
GROUP: Final = 0.86  # of the distance between two groups of bars
STYLE: Final = {
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "grid.color": HAIR,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "lmcache-connect",  # the same report gives the same file
}


def write(made: Mapping[str, Callable[[], Any]], folder: Path) -> list[Path]:
    """Writes each figure, by its name, as `.svg` and `.png` into `folder`, and creates the folder.

    Returns the paths written. A figure that is None is left out.

    Raises:
        ImportError: matplotlib is not installed.
    """
    plotting = _matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with plotting.rc_context({**plotting.rcParamsDefault, "backend": "agg", **STYLE}):
        for name, make in made.items():
            figure = make()
            if figure is None:
                continue
            for path, options in (
                (folder / f"{name}.svg", {"metadata": {"Date": None}}),
                (folder / f"{name}.png", {"dpi": 200}),
            ):
                figure.savefig(path, **options)
                written.append(path)
    return written


def _matplotlib() -> ModuleType:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("matplotlib is not installed; `make bench-setup` installs it", name="matplotlib") from error
    module: ModuleType = matplotlib
    return module


def figure(
    report: Mapping[str, Any], title: str, note: str, *, rows: int, columns: int, row_height: float, share: str = "none"
) -> tuple[Any, Any]:
    """A figure with its title and where its numbers come from, and a grid of axes below them."""
    from matplotlib.figure import Figure

    said = (report["date"][:10], report["machine"], f"Python {report['python']}, {report['event_loop']}")
    source = " · ".join((*said, f"version {report['version']}", f"`{report['command']}`"))
    subtitle = "\n".join(line for text in (note, source) if text for line in textwrap.wrap(text, 125))
    top = 0.95 + 0.19 * (subtitle.count("\n") + 1) + (0.3 if note else 0.0)  # inches above the axes
    bottom, between = 0.35 if share == "row" else 0.6, 0.5
    height = top + rows * row_height + (rows - 1) * between + bottom
    made = Figure(figsize=(WIDTH, height))
    axes = made.subplots(rows, columns, squeeze=False, sharey=share)
    made.subplots_adjust(
        left=0.065,
        right=0.985,
        top=1 - top / height,
        bottom=bottom / height,
        wspace=0.12,
        hspace=between / row_height,
    )
    made.text(0.018, 1 - 0.16 / height, title, va="top", fontsize=14, fontweight="bold")
    made.text(0.018, 1 - 0.46 / height, subtitle, va="top", fontsize=9, color=QUIET, linespacing=1.45)
    return made, axes


def legend(made: Any, handles: Sequence[Any]) -> None:
    """One legend for all axes, in a row between the subtitle and the axes."""
    height = made.get_figheight()
    top = made.subplotpars.top + 0.4 / height
    made.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.018, top),
        ncols=len(handles),
        fontsize=10,
        handlelength=1.1,
        handletextpad=0.45,
        columnspacing=1.3,
        borderaxespad=0,
        borderpad=0,
    )


def patch(colour: str, label: str) -> Any:
    """A legend's entry for bars of one colour."""
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def line(label: str) -> Any:
    """A legend's entry for a line across bars."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=INK, linewidth=1.1, label=label)


def size(nbytes: int) -> str:
    """A size in binary units."""
    return f"{nbytes // MIB} MiB" if nbytes >= MIB else f"{nbytes // KIB} KiB"
