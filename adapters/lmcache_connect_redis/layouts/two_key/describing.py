"""What a server says of the chunks of `layout=lmcache`, without their payloads: `describe_pairs`."""

from __future__ import annotations

from collections.abc import Sequence

from lmcache_connect import CorruptRecordError, StoreError
from lmcache_connect.contract import KeyFacts
from lmcache_connect.record import MAX_REMOTE_METADATA_BYTES, decode_remote_metadata

from ...protocol.questions import Questions, number_of, redirect_among, text_of
from ...protocol.redirects import RedirectedError
from ...protocol.replies import encode_command
from ..common_facts import COUNT, CommonFacts, questions_about
from .records import both_keys

_FORM = "LMCache's two values"


async def describe_pairs(
    questions: Questions, names: Sequence[str], store: str, *, records: bool
) -> list[KeyFacts | RedirectedError | None]:
    """Returns for each name the facts of its chunk, None for a missing one, or what named another node.

    A chunk of which one half is missing has facts that say so: a get of it is a miss.

    Raises:
        StoreError: the server has refused to say how long the values are.
    """
    found: list[KeyFacts | RedirectedError | None] = []
    last = b"%d" % MAX_REMOTE_METADATA_BYTES
    commands: list[bytes] = []
    for name in names:
        metadata, payload = both_keys(name)
        commands += questions_about(metadata) + questions_about(payload)
        # Without `records` as well: nothing else says whether a value of no bytes is there.
        commands += [encode_command(b"STRLEN", payload), encode_command(b"GETRANGE", metadata, b"0", last)]
    answers = await questions.ask(commands, MAX_REMOTE_METADATA_BYTES + 1)
    each = 2 * COUNT + 2
    for at in range(0, len(answers), each):
        share = answers[at : at + each]
        if (redirected := redirect_among(share)) is not None:
            found.append(redirected)
            continue
        size, encoded = share[-2:]
        for answer in (size, encoded):
            if isinstance(answer, StoreError):
                raise answer
        head, body = CommonFacts.of(share[:COUNT]), CommonFacts.of(share[COUNT : 2 * COUNT])
        found.append(_facts(head, body, number_of(size) or 0, text_of(encoded), store, records=records))
    return found


def _facts(
    head: CommonFacts, body: CommonFacts, size: int, encoded: bytes, store: str, *, records: bool
) -> KeyFacts | None:
    missing = tuple(at for at, is_there in enumerate((bool(encoded), bool(size))) if not is_there)
    if len(missing) == 2:
        return None
    metadata, problem = None, ""
    if missing:
        problem = ("its metadata", "its payload")[missing[0]] + " is missing"
    elif records:
        try:
            metadata = decode_remote_metadata(encoded, size)
        except CorruptRecordError as error:
            problem = str(error)
    times = [common.ttl for common in (head, body) if common.ttl is not None]
    idle = [common.idle for common in (head, body) if common.idle is not None]
    memory = (head.memory or len(encoded)) + (body.memory or size)
    return KeyFacts(
        nbytes=size or None,
        stored_bytes=memory,
        ttl=min(times, default=None),
        idle=min(idle, default=None),
        form=_FORM,
        pieces=2,
        missing=missing,
        server=store,
        metadata=metadata,
        problem=problem,
    )
