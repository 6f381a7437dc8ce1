"""`APIState`: the manager and the settings that the routes of one application work on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, Final

from fastapi import Depends, FastAPI, Request

from ..manager import ConnectorManager
from ..oversight import FleetWatch, HealthCheck, ManagerMetrics
from .problem import ProblemError, answer_errors
from .server_config import APIServerConfig

_ATTRIBUTE: Final = "lmcache_connect"


@dataclass
class APIState:
    """The manager, the server's settings, and what is kept between requests: what was seen last."""

    manager: ConnectorManager
    config: APIServerConfig
    started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.fleet = FleetWatch(self.manager)
        self.health = HealthCheck(self.manager, fleet=self.fleet)
        self.metrics = ManagerMetrics(self.manager, self.health)


def attach(app: FastAPI, manager: ConnectorManager, config: APIServerConfig | None = None) -> APIState:
    """Gives an application of your own the manager that its internal API works on. Returns its state.

    Of the settings, only those for routes count: `ready_timeout` and `loggers`. The toolkit's errors are answered as
    problems. The application itself must decide who may reach it; `InternalAPIServer` is safe by default.
    """
    state = APIState(manager, config if config is not None else APIServerConfig.load())
    setattr(app.state, _ATTRIBUTE, state)
    answer_errors(app)
    return state


def state_of(app: FastAPI) -> APIState:
    """The state that `attach` gave an application.

    Raises:
        ProblemError: 503, where it was given none.
    """
    state = getattr(app.state, _ATTRIBUTE, None)
    if not isinstance(state, APIState):
        raise ProblemError(503, "no_manager", "this application has no ConnectorManager: give it one with attach()")
    return state


# Coroutines, although they wait for nothing: FastAPI runs plain functions in a thread, which costs more.
async def _state(request: Request) -> APIState:
    return state_of(request.app)


State = Annotated[APIState, Depends(_state)]
"""The type of a route's parameter for the state."""


async def _manager(state: State) -> ConnectorManager:
    return state.manager


Manager = Annotated[ConnectorManager, Depends(_manager)]
"""The type of a route's parameter for the manager alone."""
