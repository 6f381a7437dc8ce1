"""`open_ports`: from LMCache's `adapter_params` to ports of jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..jobs import JobPort
from ..port_settings import check_option_names
from ..store_url import store_url


def open_ports(url: object, options: Mapping[str, Any], own: Iterable[str], count: int) -> list[JobPort]:
    """As many ports of jobs for the store at `url`. None or "": the variable `LMCACHE_CONNECT_URL` has it.

    `own` names the client's options beside the settings, for the error where one is unknown.

    Raises:
        InvalidConfigError: there is no URL, or an option is unknown or has a wrong type or range.
        InvalidURLError, AdapterLoadError: no connector can be made for the URL.
    """
    check_option_names(options, own)
    store = store_url(url, "adapter_params.url", "adapter_params")
    ports: list[JobPort] = []
    try:
        while len(ports) < count:
            ports.append(JobPort(store, **options))
    except BaseException:
        for port in ports:
            port.close(0)
        raise
    return ports
