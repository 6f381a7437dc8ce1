"""`identity_of`: what vLLM tells about the bytes of its chunks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from ..identity import Identity

ENGINE: Final = "vllm"


def identity_of(config: Any, chunk_nbytes: int, given: Mapping[str, Any] | None) -> Identity:
    """Returns the identity of the chunks of an engine with this `OffloadingConfig`, completed by what is `given`.

    The bytes of a chunk depend on the parallel shape, because a chunk holds what all workers have of it, one after the
    other. They do not where vLLM certifies its canonical layout, which is the same for each shape. vLLM's revision and
    its weights are not told to a tier. `model` in `given` replaces vLLM's name of the model, which may be a path.

    Raises:
        InvalidConfigError: `given` has an unknown field or a wrong value, or contradicts what vLLM tells.
    """
    wishes = dict(given or {})
    parallel = config.parallel
    is_canonical = bool(getattr(config, "canonical_layout", False))
    is_replicated = bool(getattr(config, "replicated_layout", False))
    layout = getattr(config, "kv_cache_layout", None)
    is_free_of_shape = is_canonical and bool(getattr(parallel, "is_parallelism_agnostic", False))
    blocks = config.cache.blocks_per_chunk
    tokens = {group.tokens_per_block * blocks for group in config.groups}
    identity = Identity(
        model=wishes.pop("model", None) or config.model.name,
        engine=ENGINE,
        record_kind="kv-canonical" if is_canonical else "kv-replicated" if is_replicated else "kv",
        dtype=str(config.model.dtype),
        kv_layout=_canonical_format(layout) if is_canonical and layout else layout,
        tokens_per_chunk=tokens.pop() if len(tokens) == 1 else None,
        parallel_shape={} if is_free_of_shape else _shape(parallel),
        more={
            "blocks_per_chunk": blocks,
            "bytes_per_chunk": chunk_nbytes,
            "groups": _groups(config.groups),
            "tokens_per_hash": config.cache.tokens_per_hash,
        },
    )
    return identity.completed(wishes)


def _shape(parallel: Any) -> dict[str, int]:
    names = {"tp": "tp_size", "pp": "pp_size", "pcp": "pcp_size", "dcp": "dcp_size", "world": "world_size"}
    return {short: int(getattr(parallel, name)) for short, name in names.items() if hasattr(parallel, name)}


def _groups(groups: Any) -> str:
    """A digest of vLLM's groups of layers. It is in every key, which must stay short."""
    facts = [
        [getattr(group, "group_id", at), group.tokens_per_block, *group.layer_names] for at, group in enumerate(groups)
    ]
    return hashlib.blake2b(json.dumps(facts, separators=(",", ":")).encode(), digest_size=16).hexdigest()


def _canonical_format(layout: str) -> str:
    """vLLM's name for the canonical format and its version."""
    from vllm.distributed.kv_transfer.kv_connector.v1.offloading.canonical_mapping import canonical_format_id

    return str(canonical_format_id(layout))
