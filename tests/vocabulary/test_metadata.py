"""What a chunk is: memory formats, shapes and dtypes, and a model's geometry."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import pytest

from lmcache_connect import CacheMetadata, ChunkMetadata, MemoryFormat
from lmcache_connect.dtypes import dtype_of
from lmcache_connect.errors import InvalidShapeError, UnknownDtypeError
from lmcache_connect.metadata import MAX_CHUNK_BYTES, MAX_DIMS, MAX_GROUPS

LLAMA_SHAPE: Final = (32, 2, 256, 8, 128)
"""Llama-3.1-8B: layers, keys and values, tokens, KV heads, head size."""

MLA_SHAPE: Final = (61, 1, 256, 1, 576)
"""DeepSeek-V3: one latent vector of 576 a token."""


# -------------------------------------------------------------------------------------------- memory formats


def test_the_numbers_of_the_memory_formats_are_lmcaches() -> None:
    assert {fmt.name: fmt.value for fmt in MemoryFormat} == {
        "UNDEFINED": 0,
        "KV_2LTD": 1,
        "KV_T2D": 2,
        "KV_2TD": 3,
        "BINARY": 4,
        "BINARY_BUFFER": 5,
        "KV_MLA_FMT": 6,
        "EC_TD": 7,
        "HS_TD": 8,
    }


@pytest.mark.parametrize(
    ("fmt", "shape", "tokens"),
    [
        (MemoryFormat.KV_2LTD, (2, 32, 256, 1024), 256),
        (MemoryFormat.KV_T2D, (256, 2, 1024), 256),
        (MemoryFormat.KV_2TD, (2, 256, 1024), 256),
        (MemoryFormat.KV_MLA_FMT, (1, 61, 256, 576), 256),
        (MemoryFormat.EC_TD, (100, 64), 100),
        (MemoryFormat.HS_TD, (100, 64), 100),
        (MemoryFormat.BINARY, (1000,), 1000),
        (MemoryFormat.BINARY_BUFFER, (1000,), 1000),
        (MemoryFormat.UNDEFINED, (7, 9), 7),
    ],
)
def test_a_format_says_which_dimension_counts_tokens(fmt: MemoryFormat, shape: tuple[int, ...], tokens: int) -> None:
    metadata = ChunkMetadata.of(shape, "uint8", fmt)
    assert metadata.num_tokens == tokens
    assert metadata.with_tokens(5).num_tokens == 5
    assert metadata.with_tokens(5).nbytes * tokens == metadata.nbytes * 5
    assert metadata.with_tokens(tokens) == metadata


# -------------------------------------------------------------------------------------------- one chunk


@pytest.mark.parametrize(
    "shapes", [(2, 32, 256, 1024), [2, 32, 256, 1024], [(2, 32, 256, 1024)], ([2, 32, 256, 1024],)]
)
@pytest.mark.parametrize("dtypes", ["bfloat16", ["bfloat16"], ("bfloat16",), dtype_of("bfloat16")])
def test_one_group_may_be_given_alone_or_in_a_list(shapes: object, dtypes: object) -> None:
    metadata = ChunkMetadata.of(shapes, dtypes)
    assert metadata.shapes == ((2, 32, 256, 1024),)
    assert metadata.dtypes == (dtype_of("bfloat16"),)
    assert metadata.fmt is MemoryFormat.KV_2LTD
    assert metadata.nbytes == 2 * 32 * 256 * 1024 * 2
    assert metadata.group_nbytes == (metadata.nbytes,)


def test_several_groups_have_a_shape_and_a_dtype_each() -> None:
    metadata = ChunkMetadata.of([(2, 30, 256, 1024), (2, 2, 256, 512)], ["bfloat16", "fp8_e4m3fn"])
    assert metadata.fmt is MemoryFormat.KV_2LTD
    assert metadata.group_nbytes == (2 * 30 * 256 * 1024 * 2, 2 * 2 * 256 * 512)
    assert metadata.nbytes == sum(metadata.group_nbytes)
    assert metadata.num_tokens == 256


def test_a_single_dtype_goes_with_every_group() -> None:
    assert ChunkMetadata.of([(3,), (4,)], "float") == ChunkMetadata.of([(3,), (4,)], ["float", "float"])


@pytest.mark.parametrize(
    ("shapes", "fmt"),
    [
        ((2, 1, 1, 1), MemoryFormat.KV_2LTD),
        ((1, 1, 1, 1), MemoryFormat.KV_MLA_FMT),
        ((3, 1, 1, 1), MemoryFormat.UNDEFINED),
        ((2, 1, 1), MemoryFormat.UNDEFINED),
        ((8,), MemoryFormat.UNDEFINED),
        ([(2, 1, 1, 1), (8,)], MemoryFormat.UNDEFINED),
        ([(1, 1, 1, 1), (1, 2, 3, 4)], MemoryFormat.KV_MLA_FMT),
    ],
)
def test_the_format_is_read_off_the_shapes_where_none_is_given(shapes: object, fmt: MemoryFormat) -> None:
    assert ChunkMetadata.of(shapes, "half").fmt is fmt


def test_another_librarys_format_counts_by_its_number() -> None:
    theirs: Any = type("TheirFormat", (), {"value": 2})()
    assert ChunkMetadata.of((4, 2, 8), "half", theirs).fmt is MemoryFormat.KV_T2D


def test_a_partial_chunk_has_fewer_tokens_in_every_group() -> None:
    full = ChunkMetadata.of([(2, 30, 256, 1024), (2, 2, 256, 512)], ["bfloat16", "half"])
    partial = full.with_tokens(100)
    assert partial.shapes == ((2, 30, 100, 1024), (2, 2, 100, 512))
    assert partial.dtypes == full.dtypes
    assert partial.fmt is full.fmt
    assert partial.nbytes * 256 == full.nbytes * 100
    with pytest.raises(InvalidShapeError, match="dimension 0"):
        full.with_tokens(0)


def test_a_format_with_too_few_dimensions_has_no_tokens_to_count() -> None:
    metadata = ChunkMetadata.of((4, 8), "half", MemoryFormat.KV_2LTD)
    with pytest.raises(InvalidShapeError, match="KV_2LTD needs a dimension 2"):
        _ = metadata.num_tokens
    with pytest.raises(InvalidShapeError, match="KV_2LTD needs a dimension 2"):
        metadata.with_tokens(1)


@pytest.mark.parametrize(
    ("shapes", "dtypes", "fmt", "named"),
    [
        (5, "half", None, "5"),
        (None, "half", None, "None"),
        ("abc", "half", None, "'a'"),
        ([], "half", None, "0 tensor groups"),
        ([[]], "half", None, "0 dimensions"),
        ([1, (2, 3)], "half", None, "invalid shape 1"),
        ((0,), "half", None, "dimension 0 "),
        ((4, -1), "half", None, "dimension -1 "),
        ((4, True), "half", None, "dimension True"),
        ((4, 2.0), "half", None, "dimension 2.0"),
        ((4, "2"), "half", None, "'2'"),
        ((MAX_CHUNK_BYTES + 1,), "uint8", None, str(MAX_CHUNK_BYTES + 1)),
        ((MAX_CHUNK_BYTES,), "half", None, f"{2 * MAX_CHUNK_BYTES} bytes"),
        ((1 << 39,) * 8, "double", None, "bytes; expected at most"),
        ((1,) * (MAX_DIMS + 1), "half", None, "9 dimensions"),
        ([(1,)] * (MAX_GROUPS + 1), "half", None, "65 tensor groups"),
        ([(1,), (2,)], ["half"] * 3, None, "2 shapes and 3 dtypes"),
        ((1, 2), ["half", "half"], None, "1 shapes and 2 dtypes"),
        ((1,), [], None, "1 shapes and 0 dtypes"),
        ((1,), "half", 99, "invalid shape 99: expected one of UNDEFINED, KV_2LTD"),
        ((1,), "half", "KV_2LTD", "'KV_2LTD'"),
    ],
)
def test_what_describes_no_chunk_is_refused_by_its_value(shapes: object, dtypes: object, fmt: Any, named: str) -> None:
    with pytest.raises(InvalidShapeError) as caught:
        ChunkMetadata.of(shapes, dtypes, fmt)
    assert named in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_an_unknown_dtype_is_refused_by_its_name() -> None:
    with pytest.raises(UnknownDtypeError, match="'int3'"):
        ChunkMetadata.of([(1,), (1,)], ["half", "int3"])


def test_a_chunks_metadata_is_a_value() -> None:
    one, other = (ChunkMetadata.of((2, 4), "half") for _ in range(2))
    assert one == other
    assert len({one, other}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.fmt = MemoryFormat.BINARY  # type: ignore[misc]


# --------------------------------------------------------------------------------------- a model's geometry


def test_a_chunk_of_llama_3_1_8b_takes_32_mib_and_a_token_128_kib() -> None:
    llama = CacheMetadata("meta-llama/Llama-3.1-8B", 1, 0, "bfloat16", LLAMA_SHAPE)
    assert llama.full_chunk_bytes == 32 << 20
    assert llama.bytes_per_token == 131_072
    assert llama.get_shapes() == [(2, 32, 256, 1024)]
    assert llama.get_dtypes() == [dtype_of("bfloat16")]
    assert llama.get_num_groups() == 1
    assert llama.fmt is MemoryFormat.KV_2LTD
    assert llama.chunk() == ChunkMetadata.of((2, 32, 256, 1024), "bfloat16", MemoryFormat.KV_2LTD)


def test_a_partial_chunk_of_a_model_has_the_bytes_of_its_tokens() -> None:
    llama = CacheMetadata("m", 1, 0, "bfloat16", LLAMA_SHAPE)
    assert llama.get_shapes(100) == [(2, 32, 100, 1024)]
    assert llama.chunk(100).nbytes == 100 * llama.bytes_per_token
    assert llama.chunk(256) == llama.chunk()


def test_a_model_with_latent_attention_has_one_vector_a_token() -> None:
    deepseek = CacheMetadata("deepseek-ai/DeepSeek-V3", 8, 7, "bfloat16", MLA_SHAPE, use_mla=True)
    assert deepseek.fmt is MemoryFormat.KV_MLA_FMT
    assert deepseek.get_shapes() == [(1, 61, 256, 576)]
    assert deepseek.bytes_per_token == 61 * 576 * 2
    assert deepseek.chunk().num_tokens == 256


def test_layers_of_different_kinds_are_groups_of_one_chunk() -> None:
    model = CacheMetadata("m", 1, 0, "bfloat16", LLAMA_SHAPE, groups=((30, 1024, "bfloat16"), (2, 512, "fp8_e5m2")))
    assert model.get_num_groups() == 2
    assert model.get_shapes(10) == [(2, 30, 10, 1024), (2, 2, 10, 512)]
    assert model.get_dtypes() == [dtype_of("bfloat16"), dtype_of("fp8_e5m2")]
    assert model.bytes_per_token == 2 * 30 * 1024 * 2 + 2 * 2 * 512
    assert model.full_chunk_bytes == 256 * model.bytes_per_token


def test_what_came_from_a_list_is_kept_as_a_value() -> None:
    shape: Any = list(LLAMA_SHAPE)
    groups: Any = [[32, 1024, "half"]]
    model = CacheMetadata("m", 1, 0, "half", shape, groups=groups)
    assert model.kv_shape == LLAMA_SHAPE
    assert model.groups == ((32, 1024, dtype_of("half")),)
    assert model.kv_dtype == dtype_of("half")
    assert len({model, CacheMetadata("m", 1, 0, "half", shape, groups=groups)}) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kv_shape": (32, 2, 256, 8)}, "(32, 2, 256, 8)"),
        ({"kv_shape": 5}, "5: expected five"),
        ({"kv_shape": None}, "None: expected five"),
        ({"kv_shape": (32, 2, 256, 8, 0)}, "(32, 2, 256, 8, 0)"),
        ({"kv_shape": (32, 2, 256, 8, "128")}, "'128'"),
        ({"kv_shape": (32, 1, 256, 8, 128)}, "use_mla is False"),
        ({"use_mla": True}, "use_mla is True"),
        ({"chunk_size": 0}, "invalid shape 0: chunk_size"),
        ({"chunk_size": "256"}, "'256': chunk_size"),
        ({"chunk_size": 512}, "chunk_size is 512, so dimension 2"),
        ({"kv_shape": (32, 2, 128, 8, 128)}, "chunk_size is 256, so dimension 2"),
        ({"world_size": 0}, "invalid shape 0: world_size"),
        ({"world_size": "1"}, "'1': world_size"),
        ({"worker_id": 1}, "invalid shape 1: worker_id must be from 0 to world_size - 1 = 0"),
        ({"worker_id": -1}, "invalid shape -1: worker_id"),
        ({"worker_id": None}, "None: worker_id"),
        ({"groups": ((32, 1024),)}, "(32, 1024): expected a group"),
        ({"groups": ((0, 1024, "half"),)}, "(0, 1024, 'half'): expected a group"),
        ({"groups": (7,)}, "7: expected a group"),
        ({"groups": ((1, 1, "half"),) * 65}, "65 tensor groups"),
        ({"kv_shape": (1 << 30, 2, 256, 8, 128)}, "bytes; expected at most"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused_by_its_value(change: dict[str, Any], named: str) -> None:
    facts: dict[str, Any] = {
        "model_name": "m", "world_size": 1, "worker_id": 0, "kv_dtype": "bfloat16", "kv_shape": LLAMA_SHAPE
    }  # fmt: skip
    with pytest.raises(InvalidShapeError) as caught:
        CacheMetadata(**facts | change)
    assert named in str(caught.value)


@pytest.mark.parametrize("change", [{"kv_dtype": "int3"}, {"groups": ((32, 1024, "int3"),)}])
def test_a_geometry_of_an_unknown_dtype_is_refused_by_its_name(change: dict[str, Any]) -> None:
    facts: dict[str, Any] = {"kv_dtype": "half", "kv_shape": LLAMA_SHAPE}
    with pytest.raises(UnknownDtypeError, match="'int3'"):
        CacheMetadata("m", 1, 0, **facts | change)
