"""The times and sizes that every cell is measured with."""

from __future__ import annotations

from typing import Final

DEADLINE: Final = 2.0
"""Seconds: the setting `operation_timeout`, or an engine's `deadline`."""

STALL: Final = 0.3
"""Seconds: the setting `stall_timeout`."""

ROOM: Final = 0.3
"""Seconds: the setting `allocate_timeout`."""

LATE: Final = 0.7
"""Seconds past its deadline after which a call is late. Foreign code is left behind half a second after it."""

AT_ONCE: Final = 0.28
"""Seconds within which a call has ended at once. Two repetitions with their pauses fit into it, and no wait does."""

WORKS_AT_ONCE: Final = 0.5
"""Seconds after the end of a fault within which the next call that works has ended, if it works at once."""

WORKS_SOON: Final = 3.0
"""Seconds within which it works soon: the breaker's pause, and a server that starts."""

GIVEN_UP: Final = 12.0
"""Seconds after which a cell says that the connector does not work again."""

SIZE: Final = 1 << 20
"""Bytes of a chunk. From this size on, a thread moves them."""

ARENA: Final = 16 << 20

TTL: Final = 300
"""Seconds that a store keeps what a cell has put there, where the store can expire."""
