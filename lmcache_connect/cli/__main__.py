"""`python -m lmcache_connect.cli`: the same as the command `lmcache-connect`."""

from __future__ import annotations

from .main import main

main()
