"""The name of the program, and its exit codes."""

from __future__ import annotations

from typing import Final

PROGRAM: Final = "lmcache-connect"


EXIT_USAGE: Final = 2
"""Wrong usage, a bad URL, or a store that cannot be used."""


EXIT_INTERRUPTED: Final = 130


EXIT_TERMINATED: Final = 143
