"""Connectors as others write them, and modules that misbehave. Nothing of them is imported but by name."""
