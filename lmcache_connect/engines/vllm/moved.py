"""`Moved`: the answer to one transfer of vLLM's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moved:
    """What has become of one load or store."""

    job: int
    """vLLM's number of the transfer."""
    is_load: bool
    keys: tuple[bytes, ...]
    flags: tuple[bool, ...]
    """For each key: it was loaded, or the store has it now."""
    seconds: float
    """How long the port's jobs took."""
    moved: int
    """How many chunks crossed the network, whole."""
