"""Guests where LMCache is installed: LMCache's own classes on the arena. Needs LMCache and torch."""
