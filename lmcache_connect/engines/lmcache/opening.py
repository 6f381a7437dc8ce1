"""`open_port`: from LMCache's `adapter_params` to a port of jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...config import ConnectorConfig
from ...errors import InvalidConfigError
from ..jobs import JobPort
from ..port_settings import check_option_names


def open_port(url: object, options: Mapping[str, Any], own: Iterable[str]) -> JobPort:
    """The port of jobs for the store at `url`. None or "": the environment variable `LMCACHE_CONNECT_URL` has it.

    `own` names the client's options beside the settings, for the error where one is unknown.

    Raises:
        InvalidConfigError: there is no URL, or an option is unknown or has a wrong type or range.
        InvalidURLError, AdapterLoadError: no connector can be made for the URL.
    """
    check_option_names(options, own)
    if not url and (known := ConnectorConfig.load().url) is not None:
        url = known.get_secret_value()
    if not url or not isinstance(url, str):
        raise InvalidConfigError(
            "adapter_params.url", "it is missing: expected the store's URL, such as redis://store:6379 or s3://bucket"
        )
    return JobPort(url, **options)
