"""`FramedLayout`: a chunk under one key, as a string that holds one record, or as a hash of pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lmcache_connect.contract import KeyFacts
from lmcache_connect.record import END_OF_NAMES, PIECES_PATTERN, chunk_names, key_of_name, start_of_names
from lmcache_connect.streaming import Arrivals, ChunkBytes

from ...options import RedisOptions
from ...pipelines.store_pipeline import StoreRequest
from ...protocol.connection import Connection
from ...protocol.questions import Questions
from ...protocol.redirects import RedirectedError
from ...protocol.replies import encode_for_each
from ..layout import Layout, escaped
from .describing import describe_chunks
from .fetching import Fetching
from .record_reader import RecordReader
from .record_writer import RecordWriter
from .second_look import look_again
from .storing import put_requests


class FramedLayout(Layout):
    """`layout=connect`: the records of `lmcache_connect.record`."""

    keys_each: ClassVar[int] = 1

    def __init__(self, store: str, options: RedisOptions) -> None:
        self._prefix = f"{options.prefix}:" if options.prefix else ""
        self._writer = RecordWriter(store, options)
        self._reader = RecordReader(options)
        self._stripe = options.stripe

    def names_of(self, keys: Sequence[str]) -> list[str]:
        return chunk_names(self._prefix, keys)

    def encode_exists(self, names: Sequence[str]) -> bytes:
        return encode_for_each("EXISTS", names)

    def encode_remove(self, names: Sequence[str]) -> bytes:
        return encode_for_each(self.remove_command, names)

    def listed_pattern(self, key_prefix: str) -> str:
        return f"{escaped(start_of_names(self._prefix, key_prefix))}*{END_OF_NAMES}"

    def listed_key(self, name: str) -> str | None:
        return key_of_name(self._prefix, name)

    def outdated_pattern(self, key_prefix: str) -> str | None:
        return f"{escaped(self._prefix + key_prefix)}*"

    def pieces_pattern(self, key_prefix: str) -> str:
        return f"{escaped(start_of_names(self._prefix, key_prefix))}*{PIECES_PATTERN}"

    def fetching(self, names: Sequence[str], arrivals: Arrivals, nbytes: int) -> Fetching:
        return Fetching(self._reader, names, arrivals, nbytes)

    def put_requests(
        self, names: Sequence[str], objs: Sequence[ChunkBytes], *, whole: bool = False
    ) -> list[StoreRequest]:
        stripe = self._stripe if self.has_transactions and not whole else 0
        return put_requests(self._writer, names, objs, stripe, each_alone=whole)

    def keep_whole(self) -> bool:
        was_striping, self._stripe = self._stripe > 0, 0
        return was_striping

    def keys_of(self, name: str) -> Sequence[bytes]:
        return (name.encode(),)

    async def describe(
        self, questions: Questions, names: Sequence[str], store: str, *, records: bool
    ) -> Sequence[KeyFacts | RedirectedError | None]:
        return await describe_chunks(questions, names, store, records=records)

    async def encode_removal_of_damage(self, connection: Connection, name: str) -> bytes | None:
        damage = await look_again(connection, name)
        return None if damage is None else damage.encode_removal(name)
