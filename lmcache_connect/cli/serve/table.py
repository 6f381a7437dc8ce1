"""A server that listens, for people."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ..frame.table import BAD, GOOD, grid
from .serving import Serving


def print_serving(serving: Serving, console: Console) -> None:
    """Prints the addresses, and a line for each store with its health."""
    facts: list[tuple[str, str | Text]] = [("serving", Text(serving.address, GOOD))]
    if serving.metrics_address is not None:
        facts.append(("metrics", f"{serving.metrics_address}/metrics"))
    for store in serving.stores:
        style = BAD if store.health == "failing" else ""
        facts.append((store.connector, Text.assemble(store.store, " ", (store.health, style))))
    console.print(grid(facts), soft_wrap=True)
