"""Chunks on their way: `lmcache-connect cp` between two stores, `get` and `put` of a file."""
