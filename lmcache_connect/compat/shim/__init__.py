"""Stand-ins for LMCache's modules, for connectors that were written for it, where it is not installed."""
