"""What the URL of a cluster may say."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from ..options import RedisOptions


class RedisClusterOptions(RedisOptions):
    """`redis-cluster://[user[:password]@]host[:port][,host:port...][?option=value&...]`"""

    replicas: Literal["never", "prefer"] = "never"
    """What gets and look-ups are made at: `never`, at primaries; `prefer`, at replicas, as long as one answers."""

    zone: Annotated[str, Field(pattern=r"^[!-~]{1,128}$")] | None = None
    """With `replicas=prefer`: the availability zone whose nodes are asked first, where the servers tell theirs."""

    @field_validator("db")
    @classmethod
    def _no_database(cls, db: int | None) -> int | None:
        if db:
            raise ValueError("no database: a cluster has one, which has no number")
        return db

    @field_validator("zone")
    @classmethod
    def _for_replicas(cls, zone: str | None, info: ValidationInfo) -> str | None:
        if zone is not None and info.data.get("replicas") != "prefer":
            raise ValueError("replicas=prefer besides it: primaries are asked wherever they are")
        return zone

    @field_validator("layout")
    @classmethod
    def _one_key_each(cls, layout: str) -> str:
        if layout != "connect":
            raise ValueError("layout=connect: LMCache's two keys of a chunk would lie on different nodes")
        return layout
