"""`open_port`: from LMCache's `adapter_params` to a port of jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...config import ConnectorConfig
from ...errors import InvalidConfigError
from ..jobs import JobPort


def open_port(url: object, options: Mapping[str, Any]) -> JobPort:
    """The port of jobs for the store at `url`. None or "": the environment variable `LMCACHE_CONNECT_URL` has it.

    Raises:
        InvalidConfigError: there is no URL, or an option is unknown or has a wrong type or range.
        InvalidURLError, AdapterLoadError: no connector can be made for the URL.
    """
    if not url and (known := ConnectorConfig.load().url) is not None:
        url = known.get_secret_value()
    if not url or not isinstance(url, str):
        raise InvalidConfigError(
            "adapter_params.url", "it is missing: expected the store's URL, such as redis://store:6379 or s3://bucket"
        )
    return JobPort(url, **options)
