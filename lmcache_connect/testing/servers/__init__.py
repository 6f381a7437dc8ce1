"""Servers for tests: real ones in processes of their own, and proxies and servers that fail as they are told."""
