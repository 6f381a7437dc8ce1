"""`progress_bar`: how far a long command is, on stderr where that is a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

OnProgress: TypeAlias = Callable[[str, int], None]
"""Called with the current step, and with how much was done since the last call: bytes, or things counted."""


@contextlib.contextmanager
def progress_bar(total: int | None, counts: Literal["share", "bytes", "things"] = "share") -> Iterator[OnProgress]:
    """Shows a bar in the `with` block. It disappears at the end. Where stderr is not a terminal, nothing is shown.

    `total` is what the calls add up to; None: not known, and the bar only moves. `counts` says what stands beside the
    bar: the share in per cent, bytes and their rate, or how many of how many.
    """
    if not sys.stderr.isatty():
        yield lambda _text, _done: None
        return
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    beside: dict[str, tuple[ProgressColumn, ...]] = {
        "share": (TaskProgressColumn(),),
        "bytes": (DownloadColumn(binary_units=True), TransferSpeedColumn()),
        "things": (MofNCompleteColumn(),),
    }
    text = "{task.description:<34}" if console.width >= 80 else "{task.description}"
    bar = BarColumn(complete_style="cyan", finished_style="cyan", bar_width=40 if console.width >= 80 else 10)
    columns = (TextColumn(text, markup=False), bar, *beside[counts], TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=total)
        yield lambda step, done: shown.update(task, description=step, advance=done)
