"""`Body`: the base of every request's body."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """Takes what the document says and nothing else: no unknown field, no number for a truth value."""

    model_config = ConfigDict(strict=True, extra="forbid")
