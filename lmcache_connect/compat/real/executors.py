"""LMCache's executors: threads of asyncio workers, through which some of its connectors make every call."""

from __future__ import annotations

import inspect
from typing import Any

from lmcache.v1.storage_backend.job_executor.base_executor import BaseJobExecutor


def uses_an_executor(connector: Any) -> bool:
    """Whether an attribute of the connector is an executor of LMCache's."""
    return bool(_executors(connector))


def make_shutdown_awaitable(connector: Any) -> None:
    """Replaces each executor of a connector that is about to be closed.

    LMCache's connectors await `shutdown()`, which is a function that blocks: it waits, on the event loop's thread, for
    workers on that loop.
    """
    for name, executor in _executors(connector).items():
        if inspect.iscoroutinefunction(getattr(executor, "shutdown_async", None)):
            setattr(connector, name, _AwaitableShutdown(executor))


def _executors(connector: Any) -> dict[str, BaseJobExecutor]:
    attributes = dict(getattr(connector, "__dict__", {}))
    return {name: value for name, value in attributes.items() if isinstance(value, BaseJobExecutor)}


class _AwaitableShutdown:
    """An executor whose `shutdown` can be awaited. Everything else is the executor's."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    async def shutdown(self, wait: bool = True) -> None:
        """Ends the workers; after they have finished their work where `wait` is True."""
        await self._executor.shutdown_async(wait)

    shutdown_async = shutdown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)
