"""`FaultConnectorAdapter`: `fault+<scheme>://`, a store with injected failures."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, field_validator

from lmcache_connect import ConnectorContext, ConnectorOptions, RemoteConnector, WrappingAdapter
from lmcache_connect.config import Seconds

from .fault_connector import FaultConnector, FaultPlan
from .operation_names import checked_names, split_names

OPERATIONS: Final = (
    "get",
    "put",
    "exists",
    "remove",
    "list",
    "scan",
    "ping",
    "batched_get",
    "batched_put",
    "batched_exists",
    "get_into",
    "put_from",
    "batched_get_into",
    "batched_put_from",
    "batched_remove",
)
"""The operations that can fail."""

Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class FaultOptions(ConnectorOptions):
    """`fault+<scheme>://...?fault_error_rate=0.1&...`. Rates are of calls, from 0 to 1; a batch is one call."""

    fault_error_rate: Rate = 0.0
    """Calls that fail before the store is asked."""

    fault_reset_rate: Rate = 0.0
    """Calls that are cut off at a random moment. The store may have done them or not."""

    fault_reset_within: Seconds = 0.005
    """The latest moment at which a call is cut off, in seconds after it began."""

    fault_delay_rate: Rate = 0.0
    """Calls that begin late."""

    fault_delay: Seconds = 0.1
    """By how many seconds."""

    fault_seed: Annotated[int, Field(ge=0, le=(1 << 63) - 1)] = 0
    """The same seed puts the same faults into the same sequence of calls."""

    fault_on: str | None = None
    """The operations that can fail, separated by commas. All of them by default."""

    @field_validator("fault_on")
    @classmethod
    def _known_operations(cls, text: str | None) -> str | None:
        return checked_names(text, OPERATIONS)

    def plan(self) -> FaultPlan:
        """The plan that these options describe."""
        chosen = frozenset(split_names(self.fault_on) or OPERATIONS)
        return FaultPlan(
            self.fault_error_rate,
            self.fault_reset_rate,
            self.fault_reset_within,
            self.fault_delay_rate,
            self.fault_delay,
            self.fault_seed,
            chosen,
        )


class FaultConnectorAdapter(WrappingAdapter):
    """`fault+redis://host?...&fault_error_rate=0.05&fault_seed=7`. Options: `FaultOptions`, and the wrapped store's."""

    prefix = "fault"
    options = FaultOptions

    def wrap(self, connector: RemoteConnector, context: ConnectorContext) -> RemoteConnector:
        """The connector with injected failures."""
        options = context.options(FaultOptions)
        return FaultConnector(connector, context.remote_url.label(), options.plan())
