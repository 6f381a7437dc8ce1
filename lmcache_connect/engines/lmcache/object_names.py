"""`ObjectNames`: the store's names for LMCache's objects, by model and tenant."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ...errors import InvalidConfigError
from ..identity import Identity
from ..namespace import Namespace

ENGINE: Final = "lmcache"
"""The engine in the identity of every chunk."""

RECORD_KIND: Final = "l2-object"
"""What LMCache's multi-process server stores. Its in-process mode stores other records, under other names."""

_SEPARATOR: Final = "@"
_PARTS: Final = 4
"""`model@rank@group@hash`. A fifth part is the salt."""

_OTHER_MODEL: Final = "unknown"
_FORM: Final = "for example {{'dtype': 'bfloat16', 'kv_layout': 'NHD', 'revision': '0a1b2c3'}}"


class ObjectNames:
    """Gives every object of LMCache's a name in the store, which says whose bytes it holds.

    LMCache's own key is `model@rank@group@hash`, with the request's salt as a fifth part where it has one. The model
    and the salt decide the namespace; rank, group and hash stand in the name as LMCache writes them. The rank holds
    the parallel shape, too. The same for `NativeClient` and `L2Adapter`, so that one finds what the other stored.
    Thread-safe.
    """

    def __init__(self, identity: Mapping[str, Any] | None = None, *, strict_identity: bool = False) -> None:
        """`identity` is what LMCache does not tell of its bytes, by the names of `Identity`.

        Raises:
            InvalidConfigError: a field is unknown or has a wrong type; or `strict_identity` is on, and one is missing
                that LMCache does not tell.
        """
        if identity is not None and not isinstance(identity, Mapping):
            raise InvalidConfigError("adapter_params.identity", f"expected fields by name, {_FORM.format()}")
        for field in ("model", "engine", "record_kind", "salt"):
            if field in (identity or {}):
                raise InvalidConfigError(f"adapter_params.identity.{field}", "LMCache itself tells it; leave it out")
        self._facts: Final = dict(identity or {})
        known = self._identity(_OTHER_MODEL)
        self.unknown: Final = known.unknown
        """The fields that nobody has told: servers that differ in them share names."""
        if strict_identity:
            Namespace(known, strict_identity=strict_identity)
        self._namespaces: dict[str, Namespace] = {}

    def name(self, key: str) -> str:
        """The name of the object that LMCache calls `key`. Different keys give different names."""
        parts = key.split(_SEPARATOR)
        model, salt = parts[0], ""
        if len(parts) == _PARTS + 1:
            salt = parts.pop()
        if len(parts) != _PARTS or not all(parts):
            # A later release may write keys otherwise. A digest keeps what may be a salt out of the name.
            digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=32, person=b"lmcache key")
            return self.of_model(model or _OTHER_MODEL).key(f"other{_SEPARATOR}{digest.hexdigest()}")
        namespace = self.of_model(model)
        if salt:
            namespace = namespace.with_salt(salt)
        return namespace.key(_SEPARATOR.join(parts[1:]))

    def names(self, keys: Iterable[str]) -> list[str]:
        """The names of several objects, in order."""
        return [self.name(key) for key in keys]

    def of_model(self, model: str) -> Namespace:
        """The namespace of a model's objects without a salt. The first time, the log says which facts are unknown."""
        if (known := self._namespaces.get(model)) is None:
            known = self._namespaces.setdefault(model, Namespace(self._identity(model)))
        return known

    def status(self) -> dict[str, Any]:
        """For LMCache's status: the facts that nobody has told, and the prefix of each model's names. No salt."""
        return {
            "unknown": list(self.unknown),
            "prefixes": {model: namespace.prefix for model, namespace in list(self._namespaces.items())},
        }

    def _identity(self, model: str) -> Identity:
        return Identity(model=model, engine=ENGINE, record_kind=RECORD_KIND).completed(self._facts)
