"""Connectors for LMCache in the styles found in the wild. They know of LMCache and of nothing here."""
