"""Wrappers for production: `hot+<scheme>://`, a hot cache in front of any store."""
