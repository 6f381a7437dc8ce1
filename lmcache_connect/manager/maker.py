"""`Maker`: from a plan to a connector. Other people's constructors run in a thread."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any, Final

from ..config import ConnectorConfig
from ..contract import ConnectorContext, RemoteConnector
from ..errors import ConnectorFailureError
from ..foreign import ForeignConnector, OutsideConnector, adopt_connector
from ..loop import LoopOwner
from ..managed import close_soon
from ..memory import ChunkMemory
from ..metadata import CacheMetadata
from ..observability import event
from ..outside import Lane, LateError
from .builtin import is_ours
from .compat_bridge import find_dialect
from .plan import Plan

_LONG_FOR_A_LOOP: Final = 0.25
"""Seconds that making a foreign connector may hold up an event loop before it is logged."""

Made = tuple[RemoteConnector, ConnectorContext]


class Maker:
    """Makes the connectors of plans, for one manager.

    The constructor of a class that this distribution does not bring may connect, block, or wait for the event loop that
    it is given, as LMCache permits. It runs in a thread, within the setting `import_timeout`.
    """

    def __init__(self, config: Any, settings: ConnectorConfig, metadata: CacheMetadata | None) -> None:
        self._config = config
        self._settings = settings
        self._metadata = metadata

    def make_blocking(self, plan: Plan, owner: LoopOwner, memory: ChunkMemory) -> Made:
        """The connector of a plan. Blocks the calling thread where the plan is foreign.

        Raises:
            ConnectorFailureError: making it did not end in time.
            What making it raises.
        """
        lane = Lane(plan.url.label())
        settings = plan.settings(self._settings)

        def make() -> Made:
            return self._make(plan, settings, owner, memory, lane)

        if not plan.is_foreign:
            return make()
        try:
            made: Made = lane.run_blocking(
                _what(plan), make, self._settings.import_timeout, on_late=partial(_close, loop=owner.loop)
            )
            return made
        except LateError as late:
            hint = "; it may wait for the event loop, which this call blocks: await open_connector() does not"
            raise self._too_slow(plan, hint if owner.is_current() else "") from late

    async def make(self, plan: Plan, owner: LoopOwner, memory: ChunkMemory) -> Made:
        """`make_blocking` for an event loop, which it does not block.

        Raises:
            As `make_blocking` does.
        """
        lane = Lane(plan.url.label())
        settings = plan.settings(self._settings)

        def make() -> Made:
            return self._make(plan, settings, owner, memory, lane)

        if not plan.is_foreign:
            return make()
        limit = asyncio.timeout(self._settings.import_timeout)
        try:
            async with limit:
                return await lane.run_in_thread(_what(plan), make, on_late=partial(_close, loop=owner.loop))
        except TimeoutError as late:
            if not limit.expired():
                raise
            raise self._too_slow(plan, "") from late

    def _too_slow(self, plan: Plan, hint: str) -> ConnectorFailureError:
        seconds = self._settings.import_timeout
        return ConnectorFailureError(
            plan.url.label(), f"making the connector did not end within {seconds:.2g} s, and goes on in a thread{hint}"
        )

    def _make(self, plan: Plan, settings: ConnectorConfig, owner: LoopOwner, memory: ChunkMemory, lane: Lane) -> Made:
        context = ConnectorContext(
            url=plan.url.raw.get_secret_value(),
            loop=owner.loop,
            local_cpu_backend=memory,
            config=self._config,
            metadata=self._metadata,
            plugin_name=plan.plugin_name,
            remote_url=plan.url,
            owner=owner,
            settings=settings,
            parsed_options=plan.options,
            wrapped=tuple(partial(self._make_wrapped, inner, settings, owner, lane) for inner in plan.inner),
            find_dialect=find_dialect,
            lane=lane,
        )
        connector = adopt_connector(plan.adapter.create_connector(context), context, type(plan.adapter).__qualname__)
        if self._is_foreign(type(connector)):
            connector = OutsideConnector(connector, lane, memory)
        connector.post_init()
        return connector, context

    def _is_foreign(self, kind: type[Any]) -> bool:
        if issubclass(kind, ForeignConnector):
            return True
        trusted = self._settings.trusted_modules
        return not is_ours(kind) and "*" not in trusted and kind.__module__ not in trusted

    def _make_wrapped(
        self, plan: Plan, settings: ConnectorConfig, owner: LoopOwner, lane: Lane, memory: ChunkMemory
    ) -> RemoteConnector:
        return self._make(plan, settings, owner, memory, lane)[0]


def tell_if_held(owner: LoopOwner, store: str, started: float) -> None:
    """Logs for how long the owning event loop was held up since `started`, in `time.monotonic()`'s seconds."""
    held = time.monotonic() - started
    if held > _LONG_FOR_A_LOOP and owner.is_current():
        advice = "await open_connector(), which imports and makes in a thread"
        event(logging.WARNING, "loop_held", store=store, seconds=f"{held:.3f}", advice=advice)


def _what(plan: Plan) -> str:
    return f"making {plan.url.label()}"


def _close(made: Made, loop: asyncio.AbstractEventLoop) -> None:
    """Closes a connector that was made too late for anybody to receive it."""
    close_soon(made[0], loop)
