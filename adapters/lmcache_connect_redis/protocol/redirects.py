"""Redirects: what a node of a cluster says instead of an answer, because the key is not, or not only, its own.

Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

from lmcache_connect import CorruptRecordError, StoreError
from lmcache_connect.errors import WrongNodeError

from .replies import encode_command

ASKING: Final = encode_command(b"ASKING")
"""Has a node serve the next command although it only is about to get the slot. It is answered with OK."""

_TARGET: Final = re.compile(r"(MOVED|ASK) ([0-9]{1,5}) (\?|[A-Za-z0-9._:%-]{0,255}):([0-9]{1,5})")
_SLOTS: Final = 16_384


class Redirect(Enum):
    """Why a node does not answer: another one has the slot now, or the key; or nobody can answer for now.

    `PRIMARY` is said by no node: the copy of a replica is damaged, so that its primary is to be asked.
    """

    MOVED = "MOVED"
    ASK = "ASK"
    TRYAGAIN = "TRYAGAIN"
    CLUSTERDOWN = "CLUSTERDOWN"
    PRIMARY = "PRIMARY"


class RedirectedError(WrongNodeError):
    """A node of a cluster has not run a command, because of the slot of its key.

    Attributes:
        kind: what it said.
        slot: the slot. None where the node did not name it.
        host, port: the node to ask, for `MOVED` and `ASK`. An empty host is that of the node which said it.
    """

    def __init__(
        self, store: str, message: str, kind: Redirect, slot: int | None = None, host: str = "", port: int = 0
    ) -> None:
        super().__init__(store, message)
        self.kind: Final = kind
        self.slot: Final = slot
        self.host: Final = host
        self.port: Final = port


class RedirectionsError(WrongNodeError):
    """Some requests of a call were not run where they were sent. All others were answered.

    Attributes:
        by_slot: for each of the call's slots, the positions of its keys, that was not served, what the node said.
        flags: what the others were answered, for a call whose answers are flags.
    """

    def __init__(self, store: str, by_slot: Mapping[int, RedirectedError]) -> None:
        first = next(iter(by_slot.values()))
        super().__init__(store, first.message)
        self.by_slot: Final = dict(by_slot)
        self.flags: dict[int, bool] = {}

    def at(self, slots: Sequence[int]) -> RedirectionsError:
        """Returns the error for the call whose slots `slots` this call's are."""
        return RedirectionsError(self.store, {slots[at]: error for at, error in self.by_slot.items()})


def damaged_copy(store: str, error: CorruptRecordError) -> RedirectedError:
    """Returns what stands for a chunk of a replica that does not verify."""
    return RedirectedError(store, f"the copy of a replica: {error}", Redirect.PRIMARY)


def whole_instead(error: RedirectedError) -> RedirectedError:
    """Returns what a redirect of a piece means for its chunk.

    While a slot moves, a name that is new to its node is to be asked for at the other one. The chunk's own name may
    still be here: put there, it would stand twice. So it is asked for here, as one value.
    """
    if error.kind is not Redirect.ASK:
        return error
    return RedirectedError(error.store, error.message, Redirect.TRYAGAIN)


def redirect_of(error: StoreError, line: str) -> RedirectedError | None:
    """Returns what an error reply says of the node to ask. None for any other. `error`: its typed error.

    Where it names what cannot be a node, the error is to be raised as it is.
    """
    code = line.partition(" ")[0]
    if code in {"TRYAGAIN", "CLUSTERDOWN"}:
        return RedirectedError(error.store, error.message, Redirect(code))
    if (target := _TARGET.fullmatch(line)) is None:
        return None
    slot, port = int(target[2]), int(target[4])
    if slot >= _SLOTS or not 0 < port < 1 << 16:
        return None
    return RedirectedError(error.store, error.message, Redirect(target[1]), slot, target[3], port)
