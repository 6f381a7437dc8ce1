"""`Fetching`: the chunks of one get or batched get, from objects into the memory that its room makes.

`object_fetch.py` has the states of an object: what each holds, and when it changes. The way of a chunk:

1. `GetJob` asks for the object, or for its first range where the connector reads in ranges.
2. `read_answer` checks status, lengths and range of the answer (`object_answer.py`).
3. `read_record_header` checks that a record follows (`record_header.py`).
4. `IncomingObject` receives the payload into its memory and verifies it (`incoming_object.py`). The ranges that are
   left become jobs of their own, for other connections.
5. A job whose connection breaks is run again and asks for what is left of its span.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmcache_connect import ArenaExhaustedError, CorruptRecordError, StoreError
from lmcache_connect.errors import ValueTooLargeError
from lmcache_connect.record import OVERHEAD_BYTES, FrameHeader
from lmcache_connect.streaming import Arrivals, ChunkBytes, OtherChunkError
from lmcache_connect.transport import ThreadStream

from .failures import AccessDeniedError
from .http_connection import HTTPConnection
from .incoming_object import IncomingObject, Span, cut
from .job import Job
from .object_answer import NoObject, ObjectAnswer, ObjectRequest, ObjectVersion, read_answer
from .object_checksum import ObjectChecksum
from .object_fetch import Corrupt, Denied, ObjectFetch, Replaced, Verified
from .options import S3Options
from .record_header import UnrecognisedBodyError, read_record_header, skip_body
from .request_call import RequestCall, RequestServer
from .retries import Retries
from .signing import CallSigner


class Fetching(RequestCall):
    """Gets objects into `arrivals`. After `run()` each has been verified, or is missing, corrupt or `denied`."""

    def __init__(
        self,
        server: RequestServer,
        retries: Retries,
        signer: CallSigner,
        options: S3Options,
        keys: Sequence[str],
        names: Sequence[str],
        arrivals: Arrivals,
    ) -> None:
        """`names` are those of the keys' objects."""
        super().__init__(server, retries, signer)
        self.options = options
        self.arrivals = arrivals
        self.denied: dict[str, AccessDeniedError] = {}
        """The objects to which access was denied, or which are missing, by name."""
        self.damaged: dict[str, str | None] = {}
        """The ETag of each object that did not verify, by its name."""
        self._fetches = [ObjectFetch(key, name) for key, name in zip(keys, names, strict=True)]
        self._slots = {fetch: slot for slot, fetch in enumerate(self._fetches)}
        self.pending.extend(GetJob(self, fetch) for fetch in self._fetches)

    def is_wanted(self, fetch: ObjectFetch) -> bool:
        """Whether there was room for everything before the object. Otherwise nothing asks for it."""
        return self._slots[fetch] < self.arrivals.wanted

    async def make_room(self, fetch: ObjectFetch, header: FrameHeader) -> ChunkBytes:
        """Returns memory for the chunk of an object. Raises what `ChunkRoom.make` raises."""
        return await self.arrivals.room.make(header.metadata, self._slots[fetch])

    def no_room(self, fetch: ObjectFetch, error: ArenaExhaustedError) -> None:
        """Told that there is no room for an object. Those behind it are not wanted then."""
        self.arrivals.no_room(self._slots[fetch], error)

    async def run(self) -> None:
        try:
            await super().run()
        finally:  # also what has come of a call that fails
            self._sort()

    def _sort(self) -> None:
        for slot, fetch in enumerate(self._fetches):
            match fetch.state:
                case Verified(chunk):
                    self.arrivals.found[slot] = chunk
                case Corrupt(error):
                    self.arrivals.corrupt[slot] = error
                case Denied(denial):
                    self.denied[fetch.name] = denial
                case _:
                    pass  # missing


class GetJob(Job):
    """GETs of one object: of its start, until that has come, and then of what is left of one span of it."""

    def __init__(self, call: Fetching, fetch: ObjectFetch, span: Span | None = None) -> None:
        super().__init__()
        self._call = call
        self._fetch = fetch
        self._span = span
        self._asks_whole = not call.options.range_size

    @property
    def goes_on(self) -> bool:
        return self._span is not None

    async def run(self, connection: HTTPConnection) -> None:
        if self._span is not None and not self._span.incoming.can_go_on:
            self._span = None
            self._fetch.ask_again()
        if self._span is None:
            if self._call.is_wanted(self._fetch):
                await self._get_start(connection)
        elif isinstance(self._fetch.state, Replaced):
            self._give_up(self._span)
        else:
            await self._get_rest(connection, self._span)

    async def _ask(self, connection: HTTPConnection, asked: ObjectRequest) -> ObjectAnswer | NoObject:
        options = self._call.options
        headers = asked.headers()
        if options.object_checksum != "none":
            headers["x-amz-checksum-mode"] = "ENABLED"
        await connection.request(self._call.signer.current.head("GET", asked.name, headers=headers))
        head = await connection.read_head("GET")
        return await read_answer(connection, head, asked, options.max_value_bytes + OVERHEAD_BYTES)

    async def _get_start(self, connection: HTTPConnection) -> None:
        fetch = self._fetch
        end = None if self._asks_whole else self._call.options.range_size
        try:
            answer = await self._ask(connection, ObjectRequest(fetch.name, 0, end))
        except AccessDeniedError as error:
            fetch.became_denied(error)
            return
        except ValueTooLargeError as error:
            fetch.became_corrupt(CorruptRecordError("too_large", str(error)))
            return
        match answer:
            case NoObject.NO_RANGE:
                self._asks_whole = True  # an empty object, or something on the way: that is seen without a range
                self._call.add(self)
            case NoObject.ARCHIVED:
                fetch.became_corrupt(CorruptRecordError("archived", answer.value, removable=False))
            case NoObject():
                fetch.became_missing()
            case ObjectAnswer():
                try:
                    header = await read_record_header(connection, answer, fetch.key)
                except CorruptRecordError as error:
                    self._does_not_verify(connection, answer.version, error)
                    return
                except UnrecognisedBodyError as error:
                    if fetch.became_unrecognised(error.version):
                        return
                    raise
                try:
                    span = self._span = await self._begin(connection, answer, header)
                except ArenaExhaustedError as error:
                    self._call.no_room(fetch, error)
                    return
                except OtherChunkError:
                    return
                await self._receive(connection, answer, span)

    def gave_up(self, error: StoreError) -> bool:
        # It looked like an object of the store, and nothing is removed for it: a miss of this key alone. What did not
        # look like one came from something between us and the store, which concerns every key.
        if not isinstance(error, UnrecognisedBodyError) or error.version is None:
            return False
        self._fetch.became_foreign()
        return True

    async def _begin(self, connection: HTTPConnection, answer: ObjectAnswer, header: FrameHeader) -> Span:
        """Makes room for the chunk, and jobs for the ranges that are left. Returns the span that this answer brings."""
        call, version = self._call, answer.version
        rest = cut(answer.end, version.nbytes, call.options.range_size)
        if rest and version.etag is None and not header.has_checksum:
            raise connection.broken("a part of an object without an ETag, which nothing would tell from another's")
        try:
            chunk = await call.make_room(self._fetch, header)
        except OtherChunkError:
            await skip_body(connection, answer.head)
            raise
        except Exception:
            connection.close()  # nobody takes the rest of the answer
            raise
        checksum = None
        if not rest and call.options.object_checksum != "none":
            checksum = ObjectChecksum.stored(call.options.object_checksum, answer.head.headers)
        if checksum is not None:
            checksum.update(bytes(connection.stream.buffered_view()[: header.length]))
        connection.stream.take(header.length)
        incoming = IncomingObject(header, chunk, version, 1 + len(rest), checksum)
        self._fetch.begin(incoming)
        for start, end in reversed(rest):  # each is put before the others
            call.add(GetJob(call, self._fetch, Span(incoming, start, end)))
        return Span(incoming, header.length, answer.end)

    async def _get_rest(self, connection: HTTPConnection, span: Span) -> None:
        version = span.incoming.version
        answer = await self._ask(connection, ObjectRequest(self._fetch.name, span.start, span.end, version))
        match answer:
            case NoObject():
                self._fetch.became_replaced()
                self._give_up(span)
            case ObjectAnswer():
                await self._receive(connection, answer, span)

    async def _receive(self, connection: HTTPConnection, answer: ObjectAnswer, span: Span) -> None:
        incoming = span.incoming
        await incoming.receive(connection.stream, span)
        connection.finished(answer.head)
        self._span = None
        if not incoming.span_ended():
            return
        if isinstance(self._fetch.state, Replaced):
            self._restart()
            return
        try:
            await incoming.verify(on_loop=not isinstance(connection.stream, ThreadStream))
        except CorruptRecordError as error:
            self._does_not_verify(connection, incoming.version, error)
        else:
            self._fetch.became_verified()

    def _give_up(self, span: Span) -> None:
        self._span = None
        if span.incoming.span_ended():
            self._restart()

    def _restart(self) -> None:
        if self._fetch.restart_after_replacement():
            self._call.add(GetJob(self._call, self._fetch))

    def _does_not_verify(self, connection: HTTPConnection, version: ObjectVersion, error: CorruptRecordError) -> None:
        self._call.damaged[self._fetch.name] = version.etag
        if connection.requests == 1:
            self._fetch.became_corrupt(error)
        elif self._fetch.recheck(error):
            connection.close()
            self._call.add(GetJob(self._call, self._fetch))
