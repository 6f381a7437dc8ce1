"""Names of KV chunks, in LMCache's own string format, so that both can share a store.

`model@world_size@worker_id@hash_hex@dtype[@tag%value...]`. The key of one layer has `@layer_id` after the dtype.
Source: LMCache 0.5.6, `lmcache/utils.py`, `CacheEngineKey` and `LayerCacheEngineKey`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

from .computed import computed
from .dtypes import DType, dtype_of
from .errors import InvalidArgumentError, InvalidKeyError, UnknownDtypeError

MAX_KEY_BYTES: Final = 4096
"""The longest key string in UTF-8 bytes. Every request contains a key, so this bounds its length."""

TAG_PREFIX: Final = "lmcache.tag."
"""Request configuration entries with this prefix become tags of the key."""

_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_HEX: Final = re.compile(r"-?[0-9a-f]+")
_DECIMAL: Final = re.compile(r"-?[0-9]+")


@dataclass(frozen=True, init=False, eq=False)
class CacheEngineKey:
    """The name of one KV chunk.

    `chunk_hash` is an integer or bytes. `dtype` is anything that `dtype_of` takes. Entries of `request_configs`
    whose name starts with `lmcache.tag.` become `tags`: tuples of (name, value), in the given order. Two keys are
    equal when their strings are equal.

    Raises:
        InvalidKeyError: a part is empty, or contains a control character or a character that the format reserves
            (`@` anywhere, `%` in a tag's name). Or the string is longer than `MAX_KEY_BYTES`.
    """

    model_name: str
    world_size: int
    worker_id: int
    chunk_hash: int | bytes
    dtype: DType
    request_configs: Mapping[str, Any] | None = field(default=None, repr=False)

    def __init__(
        self,
        model_name: str,
        world_size: int,
        worker_id: int,
        chunk_hash: int | bytes,
        dtype: object,
        request_configs: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            known = dtype_of(dtype)
        except UnknownDtypeError as error:
            raise InvalidKeyError(model_name, str(error)) from None
        for name, value in (
            ("model_name", model_name),
            ("world_size", world_size),
            ("worker_id", worker_id),
            ("chunk_hash", chunk_hash),
            ("dtype", known),
            ("request_configs", dict(request_configs) if request_configs else None),
        ):
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if not isinstance(self.model_name, str) or not self.model_name or "@" in self.model_name:
            raise InvalidKeyError(self.model_name, "the model name must be a non-empty string without '@'")
        for name in ("world_size", "worker_id"):
            number = getattr(self, name)
            if not isinstance(number, int) or isinstance(number, bool) or number.bit_length() > 63:
                raise InvalidKeyError(number, f"{name} must be an integer of at most 64 bits")
        if isinstance(self.chunk_hash, bool) or not isinstance(self.chunk_hash, int | bytes) or self.chunk_hash == b"":
            raise InvalidKeyError(self.chunk_hash, "chunk_hash must be an integer or non-empty bytes")
        for tag, value in self.tags or ():
            if not tag or "@" in tag or "%" in tag or "@" in value:
                raise InvalidKeyError(f"{tag}%{value}", "a tag needs a name without '@' or '%' and a value without '@'")
        check_key_string(self.to_string())

    @computed
    def tags(self) -> tuple[tuple[str, str], ...] | None:
        """The (name, value) of every tag; None for a key without tags."""
        if not self.request_configs:
            return None
        found = tuple(
            (name.removeprefix(TAG_PREFIX), str(value))
            for name, value in self.request_configs.items()
            if name.startswith(TAG_PREFIX)
        )
        return found or None

    @property
    def chunk_hash_hex(self) -> str:
        """The chunk's hash as the key string contains it."""
        return self.chunk_hash.hex() if isinstance(self.chunk_hash, bytes) else f"{self.chunk_hash:x}"

    @computed
    def _string(self) -> str:
        parts = [
            self.model_name,
            str(self.world_size),
            str(self.worker_id),
            self.chunk_hash_hex,
            self.dtype.name,
            *self._layer_part(),
            *(f"{tag}%{value}" for tag, value in self.tags or ()),
        ]
        return "@".join(parts)

    def _layer_part(self) -> tuple[str, ...]:
        return ()

    def to_string(self) -> str:
        """The key in LMCache's format."""
        return self._string

    @classmethod
    def from_string(cls, text: str) -> CacheEngineKey:
        """The key for a string that `to_string` wrote.

        A hash that was bytes becomes the integer with the same digits, as in LMCache. A hash with leading zeros
        stays bytes, because an integer would lose them. Keys are equal by their strings, so both forms are equal.

        Raises:
            InvalidKeyError: the string is not in the format.
        """
        head, tags = _split(text, 5)
        key = CacheEngineKey(*_head_fields(text, head), _tag_configs(text, tags))
        return _checked_round_trip(text, key)

    def split_layers(self, num_layers: int) -> list[LayerCacheEngineKey]:
        """One key for each layer from 0 to `num_layers` - 1."""
        return [
            LayerCacheEngineKey(
                self.model_name,
                self.world_size,
                self.worker_id,
                self.chunk_hash,
                self.dtype,
                self.request_configs,
                layer_id,
            )
            for layer_id in range(num_layers)
        ]

    def get_first_layer(self) -> LayerCacheEngineKey:
        """The key of layer 0."""
        return self.split_layers(1)[0]

    def with_new_worker_id(self, worker_id: int) -> CacheEngineKey:
        """The key under which another worker stores its part of the same chunk."""
        return CacheEngineKey(
            self.model_name, self.world_size, worker_id, self.chunk_hash, self.dtype, self.request_configs
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CacheEngineKey) or type(other) is not type(self):
            return NotImplemented
        return self._string == other._string

    def __hash__(self) -> int:
        return hash(self._string)

    def __str__(self) -> str:
        return self._string


@dataclass(frozen=True, init=False, eq=False, repr=False)
class LayerCacheEngineKey(CacheEngineKey):
    """The name of one layer of a KV chunk. `layer_id` counts from 0."""

    layer_id: int = 0

    def __init__(
        self,
        model_name: str,
        world_size: int,
        worker_id: int,
        chunk_hash: int | bytes,
        dtype: object,
        request_configs: Mapping[str, Any] | None = None,
        layer_id: int = 0,
    ) -> None:
        if not isinstance(layer_id, int) or isinstance(layer_id, bool) or not 0 <= layer_id < 1 << 63:
            raise InvalidKeyError(layer_id, "layer_id must be an integer from 0, of at most 64 bits")
        object.__setattr__(self, "layer_id", layer_id)
        super().__init__(model_name, world_size, worker_id, chunk_hash, dtype, request_configs)

    def _layer_part(self) -> tuple[str, ...]:
        return (str(self.layer_id),)

    @classmethod
    def from_string(cls, text: str) -> LayerCacheEngineKey:
        """The key for a string that `to_string` wrote. Raises `InvalidKeyError` for any other string."""
        head, tags = _split(text, 6)
        layer = _integer(text, head[5], "layer_id")
        key = LayerCacheEngineKey(*_head_fields(text, head[:5]), _tag_configs(text, tags), layer)
        _checked_round_trip(text, key)
        return key

    def with_new_worker_id(self, worker_id: int) -> LayerCacheEngineKey:
        """The key under which another worker stores its part of the same layer."""
        return LayerCacheEngineKey(
            self.model_name,
            self.world_size,
            worker_id,
            self.chunk_hash,
            self.dtype,
            self.request_configs,
            self.layer_id,
        )

    def __repr__(self) -> str:
        return f"LayerCacheEngineKey({self._string!r})"


Key: TypeAlias = CacheEngineKey | LayerCacheEngineKey | str
"""What every operation accepts as a key."""


def parse_key(text: str) -> CacheEngineKey | LayerCacheEngineKey:
    """The layer key or the chunk key for a string in LMCache's format.

    Raises:
        InvalidKeyError: the string is not in the format.
    """
    parts = check_key_string(text).split("@")
    if len(parts) >= 6 and parts[5].isdigit():
        return LayerCacheEngineKey.from_string(text)
    return CacheEngineKey.from_string(text)


def key_string(key: Key) -> str:
    """The string under which a key's chunk is stored.

    Raises:
        InvalidKeyError: the string is empty or too long, or contains a control character or a lone surrogate. Or
            the key has another type.
    """
    if isinstance(key, str):
        return check_key_string(key)
    if isinstance(key, CacheEngineKey):
        return key.to_string()  # checked when the key was created
    if callable(to_string := getattr(key, "to_string", None)):  # LMCache's own key classes
        return check_key_string(to_string())
    raise InvalidKeyError(key, "expected a CacheEngineKey, a LayerCacheEngineKey or a str")


def check_batch(keys: Sequence[Key]) -> None:
    """Checks that `keys` is a batch of keys, and not one key: a str is a sequence as well, of its characters.

    Raises:
        InvalidArgumentError: it is a str, or something else that is not a sequence.
    """
    if isinstance(keys, str | bytes | bytearray) or not isinstance(keys, Iterable):
        raise InvalidArgumentError(
            "keys", f"a {type(keys).__qualname__}; expected a sequence of keys. For one key pass [key]"
        )


def key_strings(keys: Sequence[Key]) -> list[str]:
    """`key_string` of each key. This is much faster than one call for each, where all keys are plain strings.

    Raises:
        InvalidArgumentError: `keys` is one key, and not a sequence of keys.
        InvalidKeyError: for the first key that is not valid.
    """
    check_batch(keys)
    # One check for all: if the joined string is printable ASCII, each key is.
    if (
        set(map(type, keys)) == {str}
        and all(keys)
        and (together := "".join(cast("Sequence[str]", keys))).isascii()
        and together.isprintable()
        and max(map(len, cast("Sequence[str]", keys))) <= MAX_KEY_BYTES
    ):
        return list(cast("Sequence[str]", keys))
    return [key_string(key) for key in keys]


def check_key_string(text: object) -> str:
    """Returns `text` if it can name a chunk, and raises `InvalidKeyError` otherwise."""
    if not isinstance(text, str):
        raise InvalidKeyError(text, "expected a str")
    # Nearly every key passes here: these three calls cost less than the pattern below.
    if text and len(text) <= MAX_KEY_BYTES and text.isascii() and text.isprintable():
        return text
    if not text:
        raise InvalidKeyError(text, "the key is empty")
    if (found := _FORBIDDEN.search(text)) is not None:
        raise InvalidKeyError(text, f"character {found.group()!r} at position {found.start()} is not allowed in a key")
    # A character has at most 4 bytes in UTF-8, so only a long string must be encoded to count its bytes.
    if len(text) > MAX_KEY_BYTES // 4 and (size := len(text.encode())) > MAX_KEY_BYTES:
        raise InvalidKeyError(text, f"{size} bytes exceed the limit of {MAX_KEY_BYTES}")
    return text


def _split(text: str, fields: int) -> tuple[list[str], list[str]]:
    check_key_string(text)
    parts = text.split("@")
    if len(parts) < fields:
        layout = "model@world_size@worker_id@hash_hex@dtype" + ("@layer_id" if fields == 6 else "")
        raise InvalidKeyError(text, f"{len(parts)} parts; expected {layout}[@tag%value...]")
    return parts[:fields], parts[fields:]


def _head_fields(text: str, head: list[str]) -> tuple[str, int, int, int | bytes, str]:
    model, world_size, worker_id, chunk_hash, dtype = head
    if _HEX.fullmatch(chunk_hash) is None:
        raise InvalidKeyError(text, f"the chunk hash {chunk_hash!r} is not lower-case hexadecimal")
    return (
        model,
        _integer(text, world_size, "world_size"),
        _integer(text, worker_id, "worker_id"),
        _hash_value(chunk_hash),
        dtype,
    )


def _hash_value(digits: str) -> int | bytes:
    if digits.startswith("0") and len(digits) > 1 and len(digits) % 2 == 0:
        return bytes.fromhex(digits)
    return int(digits, 16)


def _integer(text: str, digits: str, name: str) -> int:
    if _DECIMAL.fullmatch(digits) is None:
        raise InvalidKeyError(text, f"{name} is {digits!r}, not an integer")
    return int(digits)


def _tag_configs(text: str, tags: list[str]) -> dict[str, str] | None:
    configs: dict[str, str] = {}
    for tag in tags:
        name, sign, value = tag.partition("%")
        if not sign:
            raise InvalidKeyError(text, f"the tag {tag!r} is not of the form tag%value")
        configs[TAG_PREFIX + name] = value
    return configs or None


def _checked_round_trip(text: str, key: CacheEngineKey) -> CacheEngineKey:
    if key.to_string() != text:
        # A chunk with two spellings would be stored twice, and listings would name keys that do not exist.
        raise InvalidKeyError(text, f"expected the spelling {key.to_string()!r}")
    return key
