"""How much room a store has for what a command writes for its own ends, so that it displaces no chunk of others."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final, TypeAlias

import typer

from ...contract import RemoteConnector, TellsRoom, WrappingConnector
from ...errors import InvalidArgumentError, StoreError
from ...managed import ManagedConnector
from .sizes import size

_SLACK: Final = 1.1
"""What a server needs for a chunk besides its bytes, as a factor."""

_SECONDS: Final = 5.0
"""A store that does not answer for so long does not tell."""

Anyway: TypeAlias = Annotated[
    bool, typer.Option("--anyway", help="Write also where the store would have to evict, or refuse.")
]
"""The parameter `anyway` of commands that write for their own ends."""


async def room_for_chunks(connector: ManagedConnector) -> int | None:
    """Returns how many bytes of chunks the store takes until it evicts others or refuses.

    None: there is no limit, or the store does not tell.
    """
    inside: RemoteConnector = connector.wrapped
    while isinstance(inside, WrappingConnector):
        inside = inside.wrapped
    if not isinstance(inside, TellsRoom):
        return None
    try:
        async with asyncio.timeout(_SECONDS):
            free = await inside.bytes_free()
    except (StoreError, TimeoutError):
        return None
    return None if free is None else int(free / _SLACK)


async def require_room(
    connector: ManagedConnector, nbytes: int, option: str, unit: int = 1 << 20, named: str = "MiB"
) -> None:
    """Checks that `nbytes` of chunks fit beside those of others.

    Args:
        option: the option that says how much the command writes.
        unit: the bytes of one unit of that option, and `named` what follows its number.

    Raises:
        InvalidArgumentError: they do not. It says which value of the option does.
    """
    room = await room_for_chunks(connector)
    if room is None or room >= nbytes:
        return
    fitting = room // 2 // unit  # others write meanwhile
    advice = f"give {option} {fitting}{named}, or --anyway" if fitting else "--anyway writes all the same"
    raise InvalidArgumentError(
        option,
        f"{connector.store} has room for {size(room)}, and {size(nbytes)} would lie there at a time: chunks of others "
        f"would be evicted, or puts refused; {advice}",
    )
