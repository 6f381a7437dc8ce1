"""Hosts: inference engines that this toolkit runs inside, on memory that they own.

Each engine has a package of its own here, which the engine's configuration names and only the engine imports. What they
share is `engine_memory`, and `memory_guard`, which keeps the engine from freeing memory that is in use here. No package
imports this one.
"""
