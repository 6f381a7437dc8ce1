"""`Body`: the base of every request's body."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """Accepts what the API's document describes, and refuses the rest: an unknown field, a number for a boolean."""

    model_config = ConfigDict(strict=True, extra="forbid")
