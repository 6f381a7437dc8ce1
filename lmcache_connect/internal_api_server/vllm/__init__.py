"""Routes about one engine's caches: its connectors, look-ups, the hot cache and clearing."""
