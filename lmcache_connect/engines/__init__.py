"""Hosts: inference engines that this toolkit runs inside, on memory that they own.

Each engine has a package of its own here, named in the engine's configuration and imported by the engine alone.
"""
