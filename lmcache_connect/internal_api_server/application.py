"""The FastAPI applications that a server serves: all routes behind the gate, or the metrics alone."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI

from .._version import __version__
from ..manager import ConnectorManager
from .api_registry import APIRegistry
from .common import metrics_api
from .gate import Gate
from .outgoing import Outgoing
from .problem import Problem, answer_problems
from .server_config import APIServerConfig
from .state import attach

_DESCRIPTION = (
    "State, metrics and switches of one LMCache Connect process. GET never changes state. Every failure is answered "
    "with a `Problem`. Where the server has a token, send it as `Authorization: Bearer <token>`."
)


def create_app(
    manager: ConnectorManager, config: APIServerConfig | None = None, routers: tuple[APIRouter, ...] = ()
) -> FastAPI:
    """The application with the routes of every category, and with `routers`, behind the gate."""
    config = config if config is not None else APIServerConfig.load()
    app = _application("LMCache Connect", openapi_url="/openapi.json")
    attach(app, manager, config)
    registry = APIRegistry(app)
    registry.register_all_apis()
    for router in routers:
        registry.register_router(router)
    app.add_middleware(
        Gate,
        token=config.token.get_secret_value() if config.token is not None else None,
        protects_reads=config.protects_reads,
        allowed_hosts=(config.host, *config.allowed_hosts),
        timeout=config.request_timeout,
        max_body_bytes=config.max_body_bytes,
        root_path=config.root_path,
    )
    app.add_middleware(Outgoing)
    return app


def create_metrics_app(manager: ConnectorManager, config: APIServerConfig) -> FastAPI:
    """The application that serves `/metrics` alone."""
    app = _application("LMCache Connect metrics", openapi_url=None)
    attach(app, manager, config)
    app.include_router(metrics_api.router)
    app.add_middleware(
        Gate,
        token=config.metrics_token.get_secret_value() if config.metrics_token is not None else None,
        protects_reads=True,
        allowed_hosts=(config.metrics_host, *config.allowed_hosts),
        timeout=config.request_timeout,
        max_body_bytes=config.max_body_bytes,
        root_path=config.root_path,
        open_paths=frozenset(),
    )
    app.add_middleware(Outgoing)
    return app


def _application(title: str, **settings: Any) -> FastAPI:
    # FastAPI's pages of documentation are off: they load scripts from other sites.
    app = FastAPI(
        title=title,
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"default": {"model": Problem, "description": "what went wrong"}},
        **settings,
    )
    answer_problems(app)
    return app
