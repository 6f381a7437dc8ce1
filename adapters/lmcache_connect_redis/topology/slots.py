"""Slots: the 16,384 parts into which a Redis Cluster divides all keys.

Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from typing import Final

SLOTS: Final = 16_384


def slot_of(name: str) -> int:
    """Returns the slot of a key: the CRC16 of what stands in its first pair of braces, or of all of it."""
    start = name.find("{")
    if start >= 0 and (end := name.find("}", start + 1)) > start + 1:
        name = name[start + 1 : end]
    return crc_hqx(name.encode(), 0) & (SLOTS - 1)  # CRC-16/XMODEM


def slots_of(names: Sequence[str]) -> list[int]:
    """Returns the slot of each key."""
    return [slot_of(name) for name in names]
