"""Stacks: what the asyncio tasks and the threads of the process are doing."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ..state import State

router = APIRouter(tags=["common"])

_MOST: Final = 1000
"""The most tasks, or threads, that are listed."""

_DEPTH: Final = 64
"""The most frames of one stack. The innermost ones are kept."""


class Frame(BaseModel):
    """A place in the code. Values of variables are never shown."""

    function: str
    file: str
    line: int


class TaskState(BaseModel):
    """One task that has not ended. `stack` begins with the frame that waits."""

    name: str
    coroutine: str
    stack: list[Frame]


class Tasks(BaseModel):
    """The tasks of the connectors' event loop. `total` counts those that are left out of the list as well."""

    total: int
    tasks: list[TaskState] = Field(description=f"the first {_MOST}, by name")


class ThreadState(BaseModel):
    """One thread. `stack` begins with the frame that it executes."""

    name: str
    ident: int | None
    daemon: bool
    stack: list[Frame]


class Threads(BaseModel):
    """The threads of the process. `total` counts those that are left out of the list as well."""

    total: int
    threads: list[ThreadState] = Field(description=f"the first {_MOST}, by name")


@router.get("/tasks")
async def tasks(state: State) -> Tasks:
    """The tasks on the connectors' event loop, and where each one waits. None before there is such a loop."""
    owner = state.manager.made_owner
    return await owner.run(_tasks) if owner is not None else Tasks(total=0, tasks=[])


@router.get("/threads")
async def threads() -> Threads:
    """The threads of the process, and where each one is."""
    frames = sys._current_frames()
    alive = sorted(threading.enumerate(), key=lambda thread: thread.name)
    return Threads(
        total=len(alive),
        threads=[
            ThreadState(
                name=thread.name[:200],
                ident=thread.ident,
                daemon=thread.daemon,
                stack=_stack(frames.get(thread.ident or 0)),
            )
            for thread in alive[:_MOST]
        ],
    )


async def _tasks() -> Tasks:
    alive = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    return Tasks(total=len(alive), tasks=[_task(task) for task in alive[:_MOST]])


def _task(task: asyncio.Task[object]) -> TaskState:
    coroutine = task.get_coro()
    return TaskState(
        name=task.get_name()[:200],
        coroutine=str(getattr(coroutine, "__qualname__", type(coroutine).__qualname__))[:200],
        stack=list(_awaiting(coroutine)),
    )


def _awaiting(coroutine: object) -> Iterable[Frame]:
    """The frames of the coroutines that await each other, from the one that waits outwards."""
    found: list[Frame] = []
    while coroutine is not None and len(found) < _DEPTH:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if not isinstance(frame, FrameType):
            break
        found.append(_frame(frame.f_code, frame.f_lineno))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return reversed(found)


def _stack(frame: FrameType | None) -> list[Frame]:
    found: list[Frame] = []
    while frame is not None and len(found) < _DEPTH:
        found.append(_frame(frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return found


def _frame(code: CodeType, line: int | None) -> Frame:
    return Frame(function=code.co_qualname, file=code.co_filename, line=line or code.co_firstlineno)
