"""Rules for one chunk under one key: what comes back, who owns it, and which keys are different."""

from __future__ import annotations

from typing import Any

from ...keys import CacheEngineKey, LayerCacheEngineKey
from ...memory import SharedMemoryObj
from ...metadata import ChunkMetadata, MemoryFormat
from ..subject import Subject, is_same, payload, release, rule

_SIZES = (1, 4095, 4096, 4097, (1 << 20) + 1)


class ChunkRules:
    """Part of `ConnectorConformance`."""

    limit: float

    @rule
    async def test_get_gives_the_bytes_shapes_dtypes_and_format_that_put_stored(self, subject: Subject) -> None:
        """`get` returns exactly what `put` stored, as often as it is called."""
        key = subject.key()
        await round_trip(subject, key, ChunkMetadata.of((2, 3, 16, 8), "bfloat16", MemoryFormat.KV_2LTD))
        await subject.put(key)
        await subject.expect(key)
        await subject.expect(key)  # reading takes nothing away

    @rule
    async def test_get_of_a_missing_key_is_none(self, subject: Subject) -> None:
        """A miss is ordinary in a cache. It is neither an error nor another key's chunk."""
        await subject.put(subject.key("stored"))
        obj = await subject.connector.get(subject.key("missing"))
        release([obj])
        assert obj is None, f"get() of a key that was never stored gave {obj!r}"

    @rule
    async def test_exists_tells_whether_the_key_is_stored(self, subject: Subject) -> None:
        """An engine plans with the answer: a wrong True fails a prefill, a wrong False makes the cache useless."""
        key = subject.key()
        assert await subject.connector.exists(key) is False, "exists() before put() must be False"
        await subject.put(key)
        assert await subject.connector.exists(key) is True, "exists() after put() must be True"
        assert await subject.connector.exists(subject.key("other")) is False, "exists() of another key must be False"

    @rule
    async def test_put_replaces_what_was_stored(self, subject: Subject) -> None:
        """The last `put` wins, also where its chunk is shorter or longer than the one before."""
        key = subject.key()
        for version, nbytes in enumerate((5000, 5000, 70, 9000)):
            await subject.put(key, nbytes, version=version)
            await subject.expect(key, nbytes, version=version)

    @rule
    async def test_put_only_borrows_the_chunk(self, subject: Subject) -> None:
        """The caller owns the chunk. A reference that `put` keeps is a leak. One that it releases frees used memory."""
        key = subject.key()
        with subject.chunk(key) as obj:
            obj.ref_count_up()  # so that one released too often does not free it before it is counted
            try:
                await subject.connector.put(key, obj)
                count = obj.get_ref_count()
                assert count == 2, f"the caller held 2 references before put(), and {count} are counted after it"
                assert is_same(obj.byte_array, payload(key, 4096)), "put() changed the caller's bytes"
            finally:
                obj.ref_count_down()

    @rule
    async def test_get_hands_over_exactly_one_reference(self, subject: Subject) -> None:
        """The caller releases one. With more the memory is lost, with fewer the chunk is used after its end."""
        key = subject.key()
        await subject.put(key)
        obj = await subject.connector.get(key)
        assert obj is not None
        count = obj.get_ref_count()
        owned = subject.backend.owns(obj) or isinstance(obj, SharedMemoryObj)  # from a hot cache's own memory
        for _ in range(count):
            obj.ref_count_down()
        assert count == 1, f"get() handed over a chunk with {count} references; expected 1"
        assert owned, "get() handed over a chunk that is not from the context's local_cpu_backend"

    @rule
    async def test_what_is_stored_shares_no_memory_with_what_was_put_or_got(self, subject: Subject) -> None:
        """Owners write into their chunks. Neither the store nor another reader may see that."""
        key = subject.key()
        with subject.chunk(key) as given:
            await subject.connector.put(key, given)
            given.byte_array[:] = bytes(4096)
            assert is_same(await subject.read(key), payload(key, 4096)), (
                "changing the chunk after put() changed the store"
            )
            got = await subject.connector.get(key)
            assert got is not None
            with got:
                assert got is not given, "get() handed out the very object that was put"
                if got.is_read_only:
                    return  # its holders cannot write into it
                got.byte_array[:] = bytes(4096)
                assert is_same(await subject.read(key), payload(key, 4096)), (
                    "changing a chunk from get() changed the store"
                )

    @rule
    async def test_every_dtype_round_trips_by_name(self, subject: Subject) -> None:
        """Bytes that are read as another dtype of the same size are wrong numbers that raise no error."""
        for name in subject.capabilities.dtypes:
            await round_trip(subject, subject.key(name), ChunkMetadata.of((2, 1, 4, 8), name))

    @rule
    async def test_every_memory_format_round_trips(self, subject: Subject) -> None:
        """The format says which dimension is the tokens."""
        for fmt in MemoryFormat:
            await round_trip(subject, subject.key(fmt.name), ChunkMetadata.of((1, 2, 4, 8), "half", fmt))

    @rule
    async def test_several_tensor_groups_round_trip(self, subject: Subject) -> None:
        """A model with several kinds of layers has one shape and one dtype per kind in each chunk."""
        shapes = [(2, 3, 16, 8), (2, 1, 16, 32), (1, 1, 16, 5)]
        dtypes = ["bfloat16", "fp8_e4m3fn", "float"]
        await round_trip(subject, subject.key(), ChunkMetadata.of(shapes, dtypes, MemoryFormat.KV_2LTD))
        await round_trip(subject, subject.key(), ChunkMetadata.of(shapes[:1] * 8, "half", MemoryFormat.KV_2LTD))

    @rule
    async def test_a_partial_chunk_round_trips(self, subject: Subject) -> None:
        """The last chunk of a prompt usually has fewer tokens than the others, and must keep its size."""
        full = ChunkMetadata.of((2, 3, 256, 8), "bfloat16", MemoryFormat.KV_2LTD)
        for tokens in (255, 7, 1):
            await round_trip(subject, subject.key(str(tokens)), full.with_tokens(tokens))

    @rule
    async def test_a_chunk_of_any_size_round_trips(self, subject: Subject) -> None:
        """Errors by one byte show up with a single byte and around a page's size."""
        for nbytes in _SIZES:
            key = subject.key(str(nbytes))
            await subject.put(key, nbytes)
            await subject.expect(key, nbytes)

    @rule
    async def test_a_key_and_its_string_name_the_same_chunk(self, subject: Subject) -> None:
        """Engines use key objects. Operators and other processes use their strings."""
        for key in _engine_keys(subject):
            await subject.put(key)
            await subject.expect(str(key))
            assert await subject.connector.exists(str(key)), f"{key!r} was stored, and its string does not exist"

    @rule
    async def test_keys_that_differ_in_one_part_are_distinct(self, subject: Subject) -> None:
        """Another tag is another tenant, and another worker holds other heads. They never share a chunk."""
        keys = _engine_keys(subject)
        for key in keys:
            await subject.put(key)
        for key in keys:
            await subject.expect(key)

    @rule
    async def test_any_character_may_stand_in_a_key(self, subject: Subject) -> None:
        """Model names contain slashes and any script. Patterns, paths and escapes must leave them unchanged."""
        names = [f"{subject.namespace}{tail}" for tail in _AWKWARD]
        keys = [subject.own(name) for name in (*names, *(f"{lead}{subject.namespace}" for lead in ("/", "..", "-")))]
        for key in keys:
            await subject.put(key, 100)
        for key in keys:
            await subject.expect(key, 100)

    @rule
    async def test_a_long_key_is_kept_whole(self, subject: Subject) -> None:
        """Long keys often differ at their end only, where a length limit would cut them off."""
        room = subject.capabilities.key_bytes - len(subject.namespace) - 1
        keys = [subject.own(f"{subject.namespace}{'k' * room}{end}") for end in "ab"]
        for key in keys:
            await subject.put(key, 100)
        for key in keys:
            await subject.expect(key, 100)


_AWKWARD = (
    *(
        "%",
        "%41",
        "A",
        "a",
        " ",
        "  ",
        "+",
        "*",
        "?",
        "[",
        "[a]",
        "]",
        "\\",
        '"',
        "'",
        "{}",
        "{0}",
        "$",
        "&",
        "=",
        "#",
        ";",
    ),
    *("/", "//", "/.", "/../x", ":", "::", "|", "~", "ä", "a\u0308", "ü", "模型", "🧠", "\u00a0", "\u200b"),
)


def _engine_keys(subject: Subject) -> list[CacheEngineKey]:
    model = f"org/{subject.namespace}-modèle"
    tag = "lmcache.tag.tenant"
    keys = [
        CacheEngineKey(model, 2, 0, 0xC0FFEE, "half"),
        CacheEngineKey(model, 2, 1, 0xC0FFEE, "half"),
        CacheEngineKey(model, 4, 0, 0xC0FFEE, "half"),
        CacheEngineKey(model, 2, 0, 0xC0FFEF, "half"),
        CacheEngineKey(model, 2, 0, 0xC0FFEE, "bfloat16"),
        CacheEngineKey(f"{model}2", 2, 0, 0xC0FFEE, "half"),
        CacheEngineKey(model, 2, 0, 0xC0FFEE, "half", {tag: "a%b c"}),
        CacheEngineKey(model, 2, 0, 0xC0FFEE, "half", {tag: "b"}),
        LayerCacheEngineKey(model, 2, 0, 0xC0FFEE, "half", None, 0),
        LayerCacheEngineKey(model, 2, 0, 0xC0FFEE, "half", None, 1),
        LayerCacheEngineKey(model, 2, 0, 0xC0FFEE, "half", {tag: "b"}, 1),
    ]
    return [subject.own(key) for key in keys]


async def round_trip(subject: Subject, key: Any, metadata: ChunkMetadata) -> None:
    """Fails unless a chunk of this description comes back as it was put."""
    shapes, dtypes = list(metadata.shapes), list(metadata.dtypes)
    with subject.chunk(key, shapes=shapes, dtypes=dtypes, fmt=metadata.fmt) as given:
        await subject.connector.put(key, given)
    got = await subject.connector.get(key)
    assert got is not None, f"{key!r} was stored and is a miss"
    with got:
        assert got.get_shapes() == shapes, f"shapes {shapes} came back as {got.get_shapes()}"
        assert got.get_dtypes() == dtypes, f"dtypes {dtypes} came back as {got.get_dtypes()}"
        fmt = got.get_memory_format()
        assert fmt == metadata.fmt, f"the format {metadata.fmt.name} came back as {fmt.name}"
        assert is_same(got.byte_array, payload(key, metadata.nbytes)), "the bytes are not those that were stored"
