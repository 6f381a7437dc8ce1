"""The store's names for chunks of LMCache's in-process mode."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from lmcache_connect.engines.lmcache.inside_names import name_of


@dataclass(frozen=True)
class ChunkKey:
    """LMCache's key, restated from `CacheEngineKey` of `lmcache/utils.py` (0.5.6, and 0.5.7rc2 where it has moved)."""

    model_name: str = "m"
    world_size: int = 1
    worker_id: int = 0
    chunk_hash: int = 0xAB
    dtype: str = "half"
    tags: tuple[tuple[str, str], ...] | None = None

    def to_string(self) -> str:
        text = f"{self.model_name}@{self.world_size}@{self.worker_id}@{self.chunk_hash:x}@{self.dtype}"
        return "@".join([text, *(f"{tag}%{value}" for tag, value in self.tags or ())])


TEXT = st.text("am10@%~", max_size=4) | st.sampled_from(["1@0@ab@half", "a@u%b", "~tags"])
KEYS = st.builds(
    ChunkKey,
    model_name=st.sampled_from(["m", "m@1", "m@1@0@ab@half", "m@1@0@ab@half@t%a", "m%1"]),
    world_size=st.sampled_from([0, 1]),
    worker_id=st.sampled_from([0, 1]),
    chunk_hash=st.sampled_from([0, 0xAB]),
    dtype=st.sampled_from(["half", "bfloat16"]),
    tags=st.none() | st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3).map(tuple),
)


@given(st.lists(KEYS, min_size=2, max_size=20, unique=True))
def test_different_keys_have_different_names_also_with_signs_of_lmcaches_format_in_them(keys: list[ChunkKey]) -> None:
    assert len({name_of(key) for key in keys}) == len(keys)


def test_tags_that_lmcaches_text_takes_for_others_have_a_name_of_their_own() -> None:
    one, two = ChunkKey(tags=(("t", "a@u%b"),)), ChunkKey(tags=(("t", "a"), ("u", "b")))
    assert one.to_string() == two.to_string()
    assert name_of(one) != name_of(two)
    pretender = ChunkKey(tags=(("~tags", name_of(one).rpartition("%")[2]),))
    assert name_of(pretender) != name_of(one)


def test_ordinary_keys_have_the_text_that_lmcache_itself_gives_them() -> None:
    for key in (ChunkKey(), ChunkKey(model_name="/models/llama@v2"), ChunkKey(tags=(("user", "100%"), ("t", "")))):
        assert name_of(key) == key.to_string()
