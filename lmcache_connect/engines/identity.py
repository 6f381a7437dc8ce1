"""`Identity`: what makes the bytes of two engines' chunks interchangeable."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from ..errors import InvalidConfigError

Fact = str | int | bool | None

_NUMBERS: Final = frozenset({"tokens_per_chunk", "rank"})
_NAMES_OF_PEOPLE: Final = frozenset({"tenant"})


_SHAPE: Final = "whole numbers by name, such as tp: 4"
_FACTS: Final = "texts, whole numbers, booleans or none, by name"
_TEXT: Final = "expected a text that is not empty, in quotes"


def _pairs(name: str, given: object, kinds: type | tuple[type, ...], expected: str) -> tuple[tuple[str, Any], ...]:
    """The pairs of a mapping, or of an iterable of pairs, in the order of their names."""
    items: Iterable[Any] = given.items() if isinstance(given, Mapping) else given  # type: ignore[assignment]
    try:
        pairs = [(key, value) for key, value in items]
    except (TypeError, ValueError):
        raise InvalidConfigError(f"identity.{name}", f"expected {expected}") from None
    for key, value in pairs:
        if not isinstance(key, str) or not isinstance(value, kinds):
            raise InvalidConfigError(f"identity.{name}", f"expected {expected}")
    if len({key for key, _ in pairs}) != len(pairs):
        raise InvalidConfigError(f"identity.{name}", "a name stands there twice; expected each once")
    return tuple(sorted(pairs))


@dataclass(frozen=True)
class Identity:
    """What makes bytes interchangeable. Another value in any field gives other keys, and so a miss.

    None says that it is not known, which differs from every value. Where `dtype`, `kv_layout`, or both of `revision`
    and `fingerprint` are None, engines that differ in it cannot be told apart: see `unknown`.

    Attributes:
        model: the model's name, as the engine was given it.
        engine: the engine, such as `vllm`.
        record_kind: what the engine stores under its keys: `kv`, or a kind of its own.
        revision: the model's revision: a commit, a tag or a date.
        fingerprint: a digest of the model's weights, where the operator has one.
        dtype: the dtype of the KV cache's elements, as the engine names it.
        kv_layout: how the bytes of a chunk are laid out, as the engine names it.
        tokens_per_chunk: the tokens of a full chunk.
        parallel_shape: the sizes that the bytes depend on, such as `{"tp": 4, "pp": 1}`.
        rank: the worker's rank. None where the bytes do not depend on it.
        tenant: the operator's name for the tenant, which is readable in every key.
        salt: the engine's salt, which isolates tenants. No key, log line or representation shows it.
        more: further facts that the engine's bytes depend on.

    Raises:
        InvalidConfigError: a field has a wrong type, or `model`, `engine` or `record_kind` is empty.
    """

    model: str
    engine: str
    record_kind: str = "kv"
    revision: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None
    kv_layout: str | None = None
    tokens_per_chunk: int | None = None
    parallel_shape: Mapping[str, int] | tuple[tuple[str, int], ...] = ()
    rank: int | None = None
    tenant: str | None = None
    salt: str | bytes | None = field(default=None, repr=False)
    more: Mapping[str, Fact] | tuple[tuple[str, Fact], ...] = ()

    def __post_init__(self) -> None:
        for name in ("model", "engine", "record_kind", "revision", "fingerprint", "dtype", "kv_layout", "tenant"):
            value = getattr(self, name)
            if value == "" or not isinstance(value, str | None):
                raise InvalidConfigError(f"identity.{name}", f"{value!r}; {_TEXT}")
            if value is None and name in ("model", "engine", "record_kind"):
                raise InvalidConfigError(f"identity.{name}", "it is missing: expected a text")
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise InvalidConfigError(f"identity.{name}", f"{value!r}; expected a whole number from 0, or none")
        if not isinstance(self.salt, str | bytes | None):
            raise InvalidConfigError("identity.salt", "expected a text or bytes")
        shape = _pairs("parallel_shape", self.parallel_shape, int, _SHAPE)
        object.__setattr__(self, "parallel_shape", shape)
        more = _pairs("more", self.more, (str, int, bool, type(None)), _FACTS)
        object.__setattr__(self, "more", more)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names that `completed` takes."""
        return tuple(each.name for each in dataclasses.fields(cls))

    def completed(self, given: Mapping[str, Any] | None) -> Self:
        """This identity, with what it does not know from `given`: the parameter `identity` of an engine's plug-in.

        Raises:
            InvalidConfigError: `given` is not a mapping, a name is not a field's, a value has a wrong type, or the
                engine itself says otherwise.
        """
        if not isinstance(given, Mapping | None):
            wrong = f"a {type(given).__qualname__}; expected fields by name, such as revision and tenant"
            raise InvalidConfigError("identity", wrong)
        changes: dict[str, Any] = {}
        for name, value in (given or {}).items():
            if name not in self.field_names():
                raise InvalidConfigError(
                    f"identity.{name}", f"there is no such field; expected one of {', '.join(self.field_names())}"
                )
            if value is None:
                continue  # not known to the operator, either
            known = getattr(self, name)
            if name in ("parallel_shape", "more"):
                expected = _FACTS if name == "more" else _SHAPE
                told, added = dict(known), dict(_pairs(name, value, (str, int, bool, type(None)), expected))
                if clashing := sorted(key for key in told.keys() & added.keys() if told[key] != added[key]):
                    raise InvalidConfigError(f"identity.{name}", f"the engine itself has another {', '.join(clashing)}")
                changes[name] = {**told, **added}
            elif known is None:
                changes[name] = value
            elif known != value and name not in _NAMES_OF_PEOPLE:
                shown = "another one" if name == "salt" else repr(known)
                raise InvalidConfigError(f"identity.{name}", f"the engine itself has {shown}; leave it out")
            else:
                changes[name] = value
        return dataclasses.replace(self, **changes)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The fields that are not known, so that engines which differ in them share keys."""
        missing = [name for name in ("dtype", "kv_layout") if getattr(self, name) is None]
        if self.revision is None and self.fingerprint is None:
            missing.append("revision")
        return tuple(missing)

    def canonical(self) -> bytes:
        """All fields as bytes: equal for equal identities, and different for all others. It contains the salt.

        It is JSON in UTF-8, with the names in order and no spaces. A salt of bytes stands there as `{"hex": ...}`.
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.field_names()}
        fields["parallel_shape"], fields["more"] = dict(self.parallel_shape), dict(self.more)
        if isinstance(self.salt, bytes):
            fields["salt"] = {"hex": self.salt.hex()}
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        return text.encode("utf-8", "surrogatepass")  # in ASCII, two lone surrogates would look like one character
