"""The one place that states the version; the build reads this file."""

__version__ = "0.1.0"
