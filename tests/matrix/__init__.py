"""The fault matrix: what a caller sees when something fails, by fault and by connector, found by a run."""
