"""Hosts: inference engines that this toolkit runs inside, on memory that they own.

Each engine has a package of its own here, which the engine's configuration names and only the engine imports. What they
share is `jobs`, the port by which their threads use a connector, and `namespace`, which makes their keys.
`engine_memory` and `memory_guard` are for an engine that hands over objects of its own. No package imports this one.
"""
