"""`Losses`: when a store lost what it held, so that a chunk which has gone since is not taken for a lost one."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Final

from lmcache_connect.record import chunk_names

STRUCK: Final = "struck"
"""The store whose server is killed and restarted, and whose records are damaged."""

_DAMAGE: Final = """
local kind = redis.call('TYPE', KEYS[1]).ok
local place = tonumber(ARGV[1])
if kind == 'string' then
    local found = redis.call('GETRANGE', KEYS[1], place, place)
    if found == '' then return 0 end
    redis.call('SETRANGE', KEYS[1], place, string.char(255 - found:byte()))
    return 1
elseif kind == 'hash' then
    local piece = redis.call('HGET', KEYS[1], '1')
    if not piece then return 0 end
    local other = string.char(255 - piece:byte(place + 1))
    redis.call('HSET', KEYS[1], '1', piece:sub(1, place) .. other .. piece:sub(place + 2))
    return 1
end
return 0
"""
"""Changes one byte of a record, in one step: otherwise it could make a key that was removed meanwhile."""


class Losses:
    """What happened to one store. `path` is a file with the times at which the server was killed.

    Times are monotonic. The file has two lines for each kill, which are written before and after it.
    """

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self._damaged: dict[str, float] = {}  # when the last damage to a key was done; infinite while it is being done

    def note_kill(self) -> None:
        """Says that the server is going to be killed, or was killed just now, and loses everything."""
        with self._path.open("a", encoding="ascii") as file:
            file.write(f"{time.monotonic()!r}\n")

    def damage(self, client: Any, key: str, place: int) -> bool:
        """Changes the byte at `place` of the key's record, or of the second piece of it. Returns whether there is one.

        `client` is the server's own. It blocks, and may be called in any thread.
        """
        [name] = chunk_names("", [key])
        self._damaged[key] = math.inf
        try:
            return bool(client.eval(_DAMAGE, 1, name, place))
        finally:
            self._damaged[key] = time.monotonic()

    def may_be_gone(self, key: str, since: float) -> bool:
        """Whether the key may be missing although a put that began at `since` was acknowledged."""
        return self._damaged.get(key, -math.inf) >= since or self._last_kill() >= since

    def _last_kill(self) -> float:
        try:
            lines = self._path.read_text(encoding="ascii").split()
        except FileNotFoundError:
            return -math.inf
        return max(map(float, lines), default=-math.inf)
