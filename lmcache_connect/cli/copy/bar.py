"""`copy_bar`: how far a copy is: bytes, rate, and when it will have ended."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_WIDE = 80


@contextlib.contextmanager
def copy_bar() -> Iterator[Callable[[int, int, bool], None]]:
    """Shows a bar in the `with` block, if stderr is a terminal. It disappears at the end.

    It is called with the bytes that were dealt with, those that were found, and whether all were found: only then it is
    known when the copy will have ended.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _found, _is_listed: None
        return
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
    if console.width >= _WIDE:
        columns += [BarColumn(complete_style="cyan", finished_style="cyan", bar_width=None), DownloadColumn(True)]
    else:
        columns += [DownloadColumn(True)]
    columns += [TransferSpeedColumn(), TimeRemainingColumn(compact=True)]
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("listing", total=None)

        def tell(done: int, found: int, is_listed: bool) -> None:
            shown.update(task, completed=done, total=found if is_listed else None, description="copying")

        yield tell
