"""LMCache's tables of torch's dtypes, in their place. The only names that need torch."""

from __future__ import annotations

from typing import Any, Final

from ...dtypes import dtype_of, known_dtypes
from ...errors import MissingExtraError

try:
    import torch
except ImportError as error:
    raise MissingExtraError("LMCache's tables of torch dtypes", "torch", "torch") from error

STR_DTYPE_TO_TORCH_DTYPE: Final[dict[str, Any]] = {
    name: getattr(torch, dtype_of(name).torch_name)
    for name in known_dtypes()
    if hasattr(torch, dtype_of(name).torch_name)
}
TORCH_DTYPE_TO_STR_DTYPE: Final[dict[Any, str]] = {dtype: name for name, dtype in STR_DTYPE_TO_TORCH_DTYPE.items()}

INT_TO_DTYPE: Final[dict[int, Any]] = {
    0: None,
    1: torch.float16,
    2: torch.float16,
    3: torch.bfloat16,
    4: torch.float32,
    5: torch.float64,
    6: torch.uint8,
    7: torch.float8_e4m3fn,
    8: torch.float8_e5m2,
}
DTYPE_TO_INT: Final[dict[Any, int]] = {dtype: code for code, dtype in INT_TO_DTYPE.items()}
