"""What of the machine matters: Python, the event loop, the limits of this process, memory."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..frame.sizes import size

_FEW_FILES: Final = 1024
"""Descriptors that a process with some stores and an API server may need."""


@dataclass(frozen=True)
class Fact:
    """One fact of the machine. `advice` says what to change; "" where it is good."""

    name: str
    value: str
    advice: str = ""


def machine_facts(arena_bytes: int) -> list[Fact]:
    """The facts, for a process whose managers make arenas of `arena_bytes`. What cannot be found out is left out."""
    facts = [
        Fact("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        Fact("system", f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count() or 1} CPUs"),
        _event_loop(),
        *_open_files(),
        *_memory(arena_bytes),
        *_huge_pages(),
    ]
    return facts


def _event_loop() -> Fact:
    has_uvloop = importlib.util.find_spec("uvloop") is not None
    return Fact(
        "event loop",
        "uvloop, in threads of this package; the application chooses its own" if has_uvloop else "asyncio's own",
    )


def _open_files() -> list[Fact]:
    try:
        import resource
    except ImportError:  # Windows
        return []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = [("unlimited" if limit == resource.RLIM_INFINITY else str(limit)) for limit in (soft, hard)]
    is_low = soft != resource.RLIM_INFINITY and soft < _FEW_FILES
    advice = f"each connection needs one: ulimit -n {_FEW_FILES} or more" if is_low else ""
    return [Fact("open files", f"{shown[0]} of at most {shown[1]}", advice)]


def _memory(arena_bytes: int) -> list[Fact]:
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return []
    limits = [whole, *_group_limits()]
    least = min(limits)
    advice = ""
    if arena_bytes >= least:
        advice = f"an arena of {size(arena_bytes)} does not fit: lower max_local_cpu_bytes"
    shown = size(whole) if least == whole else f"{size(whole)}, and this process may use {size(least)}"
    return [Fact("memory", shown, advice)]


def _group_limits() -> list[int]:
    found: list[int] = []
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _text(file)
        if text.isdigit() and int(text) < 1 << 60:  # without a limit it says `max`, or a huge number
            found.append(int(text))
    return found


def _huge_pages() -> list[Fact]:
    text = _text("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = text.partition("[")[2].partition("]")[0]
    if not chosen:
        return []
    note = ": arenas have small pages, and large chunks move somewhat slower" if chosen == "never" else ""
    return [Fact("huge pages", f"{chosen}{note}")]


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
