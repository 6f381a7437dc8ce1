"""Reading and changing log levels while the process runs."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from ...observability import event
from ..body import Body
from ..problem import ProblemError, problems
from ..state import State

router = APIRouter(tags=["common"])

Level = Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET"]


class LoggerLevel(BaseModel):
    """One logger. `level` is its own, `NOTSET` where it has none. `effective` is the one in effect."""

    logger: str
    level: str
    effective: str


class LogLevels(BaseModel):
    """The loggers whose level may be changed here."""

    loggers: list[LoggerLevel]


class NewLevel(Body):
    """The level that a logger is to have. `NOTSET` removes its own level."""

    level: Level = Field(description="a standard level of Python's logging")


@router.get("/log-levels")
async def log_levels(state: State) -> LogLevels:
    """The loggers that exist, of those in the setting `loggers` and below."""
    names = [name for name in list(logging.root.manager.loggerDict) if _may_change(state.config.loggers, name)]
    return LogLevels(loggers=[_level(name) for name in sorted({*names, *state.config.loggers})])


@router.put("/log-levels/{logger}", responses=problems(404))
async def set_log_level(logger: Annotated[str, Path(max_length=256)], new: NewLevel, state: State) -> LoggerLevel:
    """Changes one logger's level until the process ends."""
    known = logger in state.config.loggers or logger in logging.root.manager.loggerDict
    if not known or not _may_change(state.config.loggers, logger):
        raise ProblemError(
            404,
            "not_found",
            f"no such logger may be changed; expected one under {', '.join(state.config.loggers)}, as GET lists them",
        )
    logging.getLogger(logger).setLevel(new.level)
    event(logging.WARNING, "log_level", logger=logger, level=new.level)
    return _level(logger)


def _may_change(roots: tuple[str, ...], name: str) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def _level(name: str) -> LoggerLevel:
    logger = logging.getLogger(name)
    return LoggerLevel(
        logger=name,
        level=logging.getLevelName(logger.level),
        effective=logging.getLevelName(logger.getEffectiveLevel()),
    )
