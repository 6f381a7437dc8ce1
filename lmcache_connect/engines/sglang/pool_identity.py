"""`identity_of`: what SGLang tells about the bytes of its pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..identity import Fact, Identity
from .host_pool import HostPool

ENGINE: Final = "sglang"
KV: Final = "kv"
"""The name of the pool of keys and values. The pools of hybrid models have other names."""

_ALWAYS_SHARDED: Final = "mamba"
"""The pool whose pages differ from rank to rank even where those of KV do not."""

_BYTES: Final = ("", "uint8")

_SHAPE: Final = (
    "layer_num",
    "start_layer",
    "end_layer",
    "head_num",
    "head_dim",
    "v_head_dim",
    "kv_cache_dim",
    "item_bytes",
    "row_bytes",
    "state_page_bytes",
    "indexer_page_stride_size",
    "num_mamba_layers",
    "temporal_state_elem_size",
    "storage_objects_per_page",
)
"""The attributes of SGLang's host pools on which the bytes of a page depend, where a pool has them."""


def identity_of(
    config: Any, pool: HostPool | None, record_kind: str, given: Mapping[str, Any], *, name: str = KV
) -> Identity:
    """Returns the identity of the pages of a pool, completed by what is `given`.

    `config` is SGLang's `HiCacheStorageConfig`. Without a pool, what only a pool tells is not known. `model` in `given`
    replaces SGLang's name of the model, which may be a path. Only for the pool `kv` must `dtype`, `kv_layout` and
    `tokens_per_chunk` in `given` agree with SGLang. The other pools have their own.

    Raises:
        InvalidConfigError: `given` has an unknown field or a wrong value, or contradicts what SGLang tells; or neither
            it nor SGLang names the model.
    """
    wishes = dict(given)
    model = wishes.pop("model", None) or config.model_name
    facts = _facts(pool) if pool is not None else {}
    if name != KV:
        for fact in facts:
            wishes.pop(fact, None)
    rank, shape, more = _place(config, is_sharded(config, pool, name))
    if pool is not None:
        more.update(_shape(pool.theirs))
    identity = Identity(
        model=model,
        engine=ENGINE,
        record_kind=f"{record_kind}.{name}",
        rank=rank,
        parallel_shape=shape,
        more=more,
        **facts,
    )
    return identity.completed(wishes)


def is_sharded(config: Any, pool: HostPool | None, name: str) -> bool:
    """Whether each tensor-parallel rank has other bytes of a page.

    All ranks of a model with latent attention (MLA) have the same, and one of them writes. Among its other pools the
    state of Mamba is sharded, and a pool with heads, such as that of a draft model.
    """
    if not config.is_mla_model or name == _ALWAYS_SHARDED:
        return True
    return pool is not None and name != KV and hasattr(pool.theirs, "head_num")


def is_writer(config: Any, pool: HostPool | None, name: str) -> bool:
    """Whether this rank stores the pages of a pool."""
    return is_sharded(config, pool, name) or config.tp_rank == getattr(config, "dcp_rank", 0)


def _place(config: Any, sharded: bool) -> tuple[int | None, dict[str, int], dict[str, Fact]]:
    """The rank, the parallel shape, and further ranks, as far as the bytes depend on them."""
    shape = {"pp": config.pp_size, "cp": config.attn_cp_size}
    more: dict[str, Fact] = {}
    if sharded:
        shape["tp"] = config.tp_size
    if config.pp_size > 1:
        more["pp_rank"] = config.pp_rank
    if config.attn_cp_size > 1:
        more["cp_rank"] = config.attn_cp_rank
    if (dcp_size := getattr(config, "dcp_size", 1)) > 1:
        shape["dcp"], shape["tp"] = dcp_size, config.tp_size
        more["dcp_rank"] = config.dcp_rank
    return (config.tp_rank if sharded else None), shape, more


def _facts(pool: HostPool) -> dict[str, Any]:
    """What the pool tells of the fields that an operator may have to give."""
    theirs = pool.theirs
    facts: dict[str, Any] = {"tokens_per_chunk": pool.page_size}
    if (dtype := _dtype(theirs)) is not None:
        facts["dtype"] = dtype
    if (layout := getattr(theirs, "layout", None)) is not None:
        facts["kv_layout"] = str(layout)
    return facts


def _dtype(theirs: Any) -> str | None:
    """The logical dtype. None where the pool tells only that it stores bytes, as it does for every kind of fp8."""
    logical = getattr(getattr(theirs, "device_pool", None), "dtype", None)
    found = logical if logical is not None else getattr(theirs, "dtype", None)
    name = "" if found is None else str(found).removeprefix("torch.")
    return name if name not in _BYTES else None


def _shape(theirs: Any) -> dict[str, Fact]:
    found: dict[str, Fact] = {"pool": type(theirs).__name__}
    for name in _SHAPE:
        value = getattr(theirs, name, None)
        if isinstance(value, int):
            found[name] = value
    if (stored := getattr(theirs, "dtype", None)) is not None:
        found["stored_dtype"] = str(stored).removeprefix("torch.")
    if (tag := getattr(theirs, "storage_format_tag", None)) is not None:
        found["format"] = str(tag)
    return found
