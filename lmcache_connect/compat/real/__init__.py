"""Connectors that were written for LMCache, with LMCache installed. Imported only then."""
