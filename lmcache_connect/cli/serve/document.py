"""The JSON document of a server that listens."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .serving import Serving


def serving_document(serving: Serving) -> dict[str, Any]:
    """The addresses and the stores of a server that listens."""
    return {"ok": True, **asdict(serving)}
