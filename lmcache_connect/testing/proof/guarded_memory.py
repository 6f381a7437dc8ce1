"""`GuardedMemory`: memory of the caller for one chunk, in several regions with guard bytes around each."""

from __future__ import annotations

import random
from typing import Final

from .stamped_value import StampedValue, WrongValueError

_GUARD: Final = b"\xa5" * 256
_PAINT: Final = b"\x5a"


class GuardedMemory:
    """Room for `nbytes` bytes in one to four regions. Nothing but the regions may be written to, and only in a call.

    The regions are given away as `views`. `end` is called once, when the call has ended and the bytes were read.
    """

    def __init__(self, rng: random.Random, nbytes: int) -> None:
        self.nbytes: Final = nbytes
        cuts = sorted(rng.sample(range(1, nbytes), rng.randint(0, 3)))
        self._spans: list[tuple[int, int]] = []
        at = len(_GUARD)
        for begin, end in zip((0, *cuts), (*cuts, nbytes), strict=True):
            self._spans.append((at, at + end - begin))
            at += end - begin + len(_GUARD)
        self._room = bytearray(at + 1)  # the last byte can be cut off where nobody has a view
        for place, _ in (*self._spans, (at, at)):
            self._room[place - len(_GUARD) : place] = _GUARD
        whole = memoryview(self._room)
        self.views: Final = [whole[begin:end] for begin, end in self._spans]
        """What a call is given for this chunk."""
        whole.release()

    async def fill(self, value: StampedValue) -> None:
        """Writes the value's bytes into the regions."""
        whole = bytearray(self.nbytes)
        with memoryview(whole) as view:
            await value.fill(view)
        done = 0
        for begin, end in self._spans:
            self._room[begin:end] = whole[done : done + end - begin]
            done += end - begin

    async def read(self, key: str) -> StampedValue:
        """The value that the regions hold. Raises `WrongValueError`."""
        return await StampedValue.read(key, memoryview(b"".join(self._room[begin:end] for begin, end in self._spans)))

    def end(self) -> None:
        """The call has ended, so that nobody has a view of the memory any more, and no guard was written to.

        Raises:
            WrongValueError: that is not so.
        """
        try:
            for view in self.views:
                view.release()
            del self._room[-1:]
        except BufferError as error:
            raise WrongValueError(f"a view of the caller's memory is left after the call: {error}") from None
        for place in (*(begin for begin, _ in self._spans), len(self._room)):
            if self._room[place - len(_GUARD) : place] != _GUARD:
                raise WrongValueError(f"guard bytes of the caller's memory were written to, below byte {place}")

    def paint(self) -> None:
        """Overwrites everything: what is sent from here now is not a value."""
        self._room[:] = _PAINT * len(self._room)

    def is_painted(self) -> bool:
        """Whether nobody has written anything since."""
        return self._room.count(_PAINT) == len(self._room)
