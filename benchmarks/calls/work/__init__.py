"""What a process measures: one kind of work for each part of the benchmark."""

from __future__ import annotations

from typing import Final

from .busy import Busy
from .callers_memory import CallersMemory
from .one import One
from .one_batch import OneBatch
from .threads import Threads
from .together import Together
from .work import Work, WrongDataError

__all__ = ["WORK", "Work", "WrongDataError"]

WORK: Final[dict[str, type[Work]]] = {
    "together": Together,
    "one-batch": OneBatch,
    "memory": CallersMemory,
    "one": One,
    "threads": Threads,
    "busy": Busy,
}
"""By the part's name."""
