"""Tensor element types, by name. The dtypes of torch and numpy are accepted, and neither package is imported.

The names are LMCache's (`TORCH_DTYPE_TO_STR_DTYPE` in its `utils.py`). The names of torch and numpy are accepted as
well. The codes are written into stored records and never change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .errors import UnknownDtypeError


@dataclass(frozen=True, slots=True)
class DType:
    """One element type. `name` is LMCache's, `itemsize` is in bytes, and `code` stands for it in stored records."""

    name: str
    itemsize: int
    code: int
    torch_name: str
    numpy_name: str | None

    def __str__(self) -> str:
        return self.name


_ALL: Final = (
    DType("half", 2, 1, "float16", "float16"),
    DType("bfloat16", 2, 2, "bfloat16", None),
    DType("float", 4, 3, "float32", "float32"),
    DType("double", 8, 4, "float64", "float64"),
    DType("uint8", 1, 5, "uint8", "uint8"),
    DType("int8", 1, 6, "int8", "int8"),
    DType("int16", 2, 7, "int16", "int16"),
    DType("int32", 4, 8, "int32", "int32"),
    DType("int64", 8, 9, "int64", "int64"),
    DType("bool", 1, 10, "bool", "bool"),
    DType("fp8_e4m3fn", 1, 11, "float8_e4m3fn", None),
    DType("fp8_e4m3fnuz", 1, 12, "float8_e4m3fnuz", None),
    DType("fp8_e5m2", 1, 13, "float8_e5m2", None),
    DType("fp8_e5m2fnuz", 1, 14, "float8_e5m2fnuz", None),
)
_BY_CODE: Final = {dtype.code: dtype for dtype in _ALL}
_BY_NAME: Final = {dtype.torch_name: dtype for dtype in _ALL} | {dtype.name: dtype for dtype in _ALL}


def dtype_of(value: object) -> DType:
    """The `DType` for a name, a `DType`, a `torch.dtype`, a `numpy.dtype` or a scalar type of numpy.

    Raises:
        UnknownDtypeError: for any other value. The error lists the known names.
    """
    if isinstance(value, DType):
        return value
    if isinstance(value, str):
        name = value
    elif type(value).__module__.partition(".")[0] == "torch":
        name = str(value)
    elif isinstance(numpy_name := getattr(value, "name", None), str):
        # Records are little-endian: an array in the other byte order would come back as other numbers.
        name = numpy_name if getattr(value, "isnative", True) else ""
    elif isinstance(value, type) and value.__module__ != "builtins":
        name = value.__name__.removesuffix("_")  # such as numpy.float16; numpy 1 calls its bool `bool_`
    else:
        name = ""  # includes Python's `float`: it has 8 bytes, while LMCache's "float" has 4
    found = _BY_NAME.get(name.removeprefix("torch."))
    if found is None:
        raise UnknownDtypeError(value, known_dtypes())
    return found


def dtype_from_code(code: int) -> DType | None:
    """The `DType` for a code in a stored record; None for an unknown code."""
    return _BY_CODE.get(code)


def known_dtypes() -> tuple[str, ...]:
    """The names that a key or a URL may use."""
    return tuple(dtype.name for dtype in _ALL)
