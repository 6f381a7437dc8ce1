"""What the URL of a ring may say."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from lmcache_connect.record import MAX_SPREAD

from ..options import RedisOptions


class RedisRingOptions(RedisOptions):
    """`redis-ring://[user[:password]@]host[:port][,host:port...][?option=value&...]`"""

    spread: Annotated[int, Field(ge=1, le=MAX_SPREAD)] = 1
    """Servers that the pieces of a chunk of 8 MiB and more are spread over when it is put. 1: it lies on one server."""

    @field_validator("spread")
    @classmethod
    def _known_to_records(cls, spread: int, info: ValidationInfo) -> int:
        if spread > 1 and info.data.get("layout") == "lmcache":
            raise ValueError("no such option besides layout=lmcache, whose records have no pieces")
        return spread
