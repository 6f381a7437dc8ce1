"""Rules for size: chunks of tens of mebibytes, and as many dimensions and tensor groups as a chunk may have."""

from __future__ import annotations

from ...metadata import ChunkMetadata
from ..subject import LARGEST, Subject, rule
from .chunk import round_trip

_MEDIUM = ((1 << 16) + 1, (4 << 20) + 1, (8 << 20) + 5)
_LARGE = ((16 << 20) + 1, (21 << 20) + 3)


class SizeRules:
    """Part of `ConnectorConformance`."""

    limit: float

    @rule
    async def test_a_chunk_of_some_mebibytes_round_trips(self, subject: Subject) -> None:
        """Drivers and servers have limits and thresholds: a page, a socket's buffer, a part, a largest value."""
        for nbytes in sorted({min(nbytes, subject.capabilities.max_chunk_bytes) for nbytes in _MEDIUM}):
            await _check(subject, nbytes)

    @rule
    async def test_a_chunk_of_64_mebibytes_round_trips(self, subject: Subject) -> None:
        """A long chunk of a large model has tens of mebibytes. A store that cannot take it says so by an error."""
        _requires(subject, "max_chunk_bytes", LARGEST)
        for nbytes in (*_LARGE, LARGEST):
            await _check(subject, nbytes)

    @rule
    async def test_as_many_dimensions_as_a_chunk_may_have_round_trip(self, subject: Subject) -> None:
        """A connector with room for four dimensions must refuse the fifth. It must not drop it."""
        for count in range(1, subject.capabilities.dimensions + 1):
            shape = (*((1, 2) * 4)[: count - 1], 3)
            await round_trip(subject, subject.key(str(count)), ChunkMetadata.of(shape, "half"))

    @rule
    async def test_as_many_tensor_groups_as_a_chunk_may_have_round_trip(self, subject: Subject) -> None:
        """A hybrid model has a group for each kind of layer. Each has a shape and a dtype of its own."""
        for count in sorted({1, min(2, subject.capabilities.groups), subject.capabilities.groups}):
            dtypes = [("half", "uint8", "float")[index % 3] for index in range(count)]
            shapes = [(2, 1 + index % 5, 4, 8) for index in range(count)]
            await round_trip(subject, subject.key(str(count)), ChunkMetadata.of(shapes, dtypes))


async def _check(subject: Subject, nbytes: int) -> None:
    key = subject.key(str(nbytes))
    await subject.put(key, nbytes)
    assert await subject.connector.exists(key), (
        f"a chunk of {nbytes} bytes was put without an error, and does not exist; raise ValueTooLargeError for what "
        "the store cannot take, and say so in Capabilities(max_chunk_bytes=...)"
    )
    await subject.expect(key, nbytes)
    if subject.capabilities.remove:
        await subject.connector.remove(key)


def _requires(subject: Subject, name: str, least: int) -> None:
    import pytest

    claimed = getattr(subject.capabilities, name)
    if claimed < least:
        pytest.skip(f"the connector claims {name}={claimed}, which is less than {least}")
