"""LMCache's description of a model where LMCache's class alone does not do."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import InvalidArgumentError
from ...metadata import CacheMetadata


class UnknownModel:
    """Stands for the metadata that the manager was not given. LMCache's base class would only fail an assertion."""

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        raise InvalidArgumentError(
            "metadata",
            f"a connector of LMCache's asks for the model's {name}; give its manager metadata=CacheMetadata(...)",
        )


class GroupedModel:
    """LMCache's metadata `given` with the tensor groups of `model`. LMCache itself learns groups only from an engine.

    Everything that is not defined here is read from `given`.
    """

    def __init__(self, given: Any, model: CacheMetadata) -> None:
        self._given = given
        self._model = model

    def get_shapes(self, num_tokens: int | None = None) -> list[Any]:
        """One shape per group, for `num_tokens` tokens; for a full chunk where that is None."""
        return [torch.Size(shape) for shape in self._model.get_shapes(num_tokens)]

    def get_dtypes(self) -> list[Any]:
        """One torch dtype per group."""
        return [getattr(torch, dtype.torch_name) for dtype in self._model.get_dtypes()]

    def get_num_groups(self) -> int:
        """The number of groups."""
        return self._model.get_num_groups()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._given, name)
