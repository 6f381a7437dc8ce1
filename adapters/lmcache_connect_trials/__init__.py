"""Connectors for trying things out: audits, faults on purpose, a store in memory with a bandwidth, a black hole."""
