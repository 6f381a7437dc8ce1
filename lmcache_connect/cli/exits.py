"""The exit codes of the command, and its name."""

from __future__ import annotations

from typing import Final

PROGRAM: Final = "lmcache-connect"

EXIT_NOT_VERIFIED: Final = 1
"""The demo ran, and an answer of the store was wrong."""

EXIT_USAGE: Final = 2
"""The usage or the URL is wrong, the store cannot be used, or a package is missing."""

EXIT_INTERRUPTED: Final = 130
"""SIGINT, such as Ctrl-C, ended the command."""

EXIT_TERMINATED: Final = 143
"""SIGTERM ended the command."""
