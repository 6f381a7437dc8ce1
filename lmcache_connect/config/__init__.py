"""Settings: of connectors and managers, and the base of all others; where values come from, sizes and durations.

Every package above may import it.
"""

from __future__ import annotations

from .connector_config import ConnectorConfig, ErrorMode
from .durations import DURATION, MOST_SECONDS, Lifetime, Seconds, duration_text, second_count
from .origin import Origin
from .settings import Settings
from .settings_file import FILE_VARIABLE, SettingsFile
from .similar import meant
from .sizes import SIZE, Bytes, byte_count, size_text

__all__ = [
    "DURATION",
    "FILE_VARIABLE",
    "MOST_SECONDS",
    "SIZE",
    "Bytes",
    "ConnectorConfig",
    "ErrorMode",
    "Lifetime",
    "Origin",
    "Seconds",
    "Settings",
    "SettingsFile",
    "byte_count",
    "duration_text",
    "meant",
    "second_count",
    "size_text",
]
