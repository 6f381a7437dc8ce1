"""Connectors for trials: an audit, injected failures, a store in memory with a set bandwidth, a black hole."""
