"""`ObjectFetch`: the state of one object of a get.

    Asked          -> IncomingObject  a record of the key begins, and there is memory for its payload
                   -> Missing         there is no such object
                   -> Corrupt         a record that is not one of the key, or an object of another kind
                   -> Denied          access to it is denied, or it is missing: the answer does not tell
    IncomingObject -> Verified        every byte has come, and the checksums agree
                   -> Corrupt         every byte has come, and a checksum differs
                   -> Replaced        the rest was asked for, and another object has the name now
                   -> Asked           its connection broke, and nothing tells whether the rest is of the same object
    Replaced       -> Asked           nothing is received into its memory any more; after four replacements: Corrupt

Where bytes that do not verify came over a connection that was used before, the object is `Asked` again in place of
`Corrupt`, twice. What is known in a state is what its class holds. A connection that breaks changes no other state: a
job is run again, asks for the start while nothing has come, and then for what is left. A failure that concerns more
than one object ends the call, whose room is then released as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from lmcache_connect import CorruptRecordError
from lmcache_connect.streaming import ChunkBytes

from .failures import AccessDeniedError
from .incoming_object import IncomingObject
from .object_answer import ObjectVersion

_MAX_REPLACEMENTS: Final = 4
_MAX_RECHECKS: Final = 2


@dataclass(frozen=True, slots=True)
class Asked:
    """The object's start is asked for, or will be. Nothing is known of it."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """Another object has taken the name since the first bytes came. Others may still receive into its memory."""

    incoming: IncomingObject


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such object: a miss."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The chunk is in memory and has verified."""

    chunk: ChunkBytes


@dataclass(frozen=True, slots=True)
class Corrupt:
    """The object is not a record of its key, or its bytes do not verify."""

    error: CorruptRecordError


@dataclass(frozen=True, slots=True)
class Denied:
    """Access to the object is denied, which some stores answer also where it is missing."""

    error: AccessDeniedError


State: TypeAlias = Asked | IncomingObject | Replaced | Missing | Verified | Corrupt | Denied


class ObjectFetch:
    """One object of a get and its state. Does no I/O.

    The jobs of its spans may say in several threads at a time that it was replaced. Every other change is made while no
    other job of the object is left.
    """

    def __init__(self, key: str, name: str) -> None:
        self.key: Final = key
        self.name: Final = name
        self.state: State = Asked()
        self._replacements = 0
        self._rechecks = 0
        self._unrecognised: ObjectVersion | None = None

    def became_missing(self) -> None:
        """Records that there is no such object."""
        self.state = Missing()

    def became_denied(self, error: AccessDeniedError) -> None:
        """Records that access to it is denied."""
        self.state = Denied(error)

    def begin(self, incoming: IncomingObject) -> None:
        """Records that its header has verified, and that there is memory for its payload."""
        self.state = incoming

    def became_verified(self) -> None:
        """Records that all its bytes came and have verified."""
        assert isinstance(self.state, IncomingObject)  # noqa: S101  # only such an object has bytes
        self.state = Verified(self.state.chunk)

    def became_corrupt(self, error: CorruptRecordError) -> None:
        """Records that it does not verify. Releases the memory of what has come."""
        self._release()
        self.state = Corrupt(error)

    def recheck(self, error: CorruptRecordError) -> bool:
        """Gives up bytes that do not verify, from a connection that was used before. Returns whether to ask again.

        They may be the late answer to another request, which the server left on the connection. So the object becomes
        `Corrupt` only when several connections have brought such bytes.
        """
        if self._rechecks == _MAX_RECHECKS:
            self.became_corrupt(error)
            return False
        self._rechecks += 1
        self.ask_again()
        return True

    def became_unrecognised(self, version: ObjectVersion | None) -> bool:
        """Told that an answer brought no record, but what looks like an object of this `version`.

        Returns whether the object became `Corrupt`: the store has answered the same before, over another connection, so
        it is an object of another program. Nobody removes it. Otherwise the network may have answered.
        """
        if version is None or version != self._unrecognised:
            self._unrecognised = version
            return False
        self.became_foreign()
        return True

    def became_foreign(self) -> None:
        """Records that what is there is not a record. It stays."""
        what = "an object that is not a record; it was left as it is"
        self.became_corrupt(CorruptRecordError("magic", what, removable=False))

    def became_replaced(self) -> None:
        """Records that a span was asked for and another object is there. Idempotent."""
        state = self.state  # read once: another thread may say the same at this moment
        if isinstance(state, IncomingObject):
            self.state = Replaced(state)

    def restart_after_replacement(self) -> bool:
        """Gives up what came of the replaced object. Returns whether to ask for the object again.

        Called when nothing is received into its memory any more. After four replacements the object is `Corrupt`.
        """
        if self._replacements == _MAX_REPLACEMENTS:
            times = f"it was replaced {_MAX_REPLACEMENTS} times while it was read"
            self.became_corrupt(CorruptRecordError("replaced", times, removable=False))
            return False
        self._replacements += 1
        self.ask_again()
        return True

    def ask_again(self) -> None:
        """Gives up what has come. Called when nothing is received into its memory any more."""
        self._release()
        self.state = Asked()

    def _release(self) -> None:
        match self.state:
            case IncomingObject(chunk=chunk) | Replaced(IncomingObject(chunk=chunk)):
                chunk.ref_count_down()
            case _:
                pass  # nothing has come
