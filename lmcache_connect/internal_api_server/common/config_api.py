"""The configuration that is in effect."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ..state import State

router = APIRouter(tags=["common"])


class Configuration(BaseModel):
    """Settings by name. Secrets read `***`, and so does each value of `extra_config` that may be a secret."""

    settings: dict[str, Any] = Field(description="of the manager and its connectors: `ConnectorConfig`")
    server: dict[str, Any] = Field(description="of this server: `APIServerConfig`")


@router.get("/config")
async def configuration(state: State) -> Configuration:
    """The settings in effect, from code, the environment and the defaults, without secrets."""
    server = state.config.model_dump(mode="json")
    for name in ("token", "metrics_token"):
        server[name] = "***" if server[name] else None
    return Configuration(settings=state.manager.settings.shown(), server=server)
