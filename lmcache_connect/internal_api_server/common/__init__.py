"""Routes that every process has: health, version, metrics, configuration, log levels, tasks and threads."""
