"""The release that runs."""

from __future__ import annotations

import platform
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from ..._version import __version__

router = APIRouter(tags=["common"])


class Version(BaseModel):
    """The release of the toolkit, and the Python that runs it."""

    name: Literal["lmcache-connect"] = "lmcache-connect"
    version: str
    python: str


@router.get("/version")
async def version() -> Version:
    """The release that answers."""
    return Version(version=__version__, python=platform.python_version())
