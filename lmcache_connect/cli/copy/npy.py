"""Files of numpy, `.npy`: their header, which says shape and dtype. The payload behind it is a chunk's.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import ast
import struct
from typing import BinaryIO, Final

from ...dtypes import DType, dtype_of
from ...errors import InvalidArgumentError
from ...metadata import ChunkMetadata

MAGIC: Final = b"\x93NUMPY"
_ALIGNED: Final = 64
_MOST: Final = 1 << 16
_DTYPES: Final = {
    "half": "<f2",
    "float": "<f4",
    "double": "<f8",
    "uint8": "|u1",
    "int8": "|i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "bool": "|b1",
}
"""numpy's names for the dtypes that it has."""


def npy_header(metadata: ChunkMetadata) -> bytes:
    """What stands before the payload of a chunk in its file.

    A dtype that numpy lacks, such as bfloat16, is written as whole numbers of its size, and several tensors as bytes.
    """
    shape: tuple[int, ...] = (metadata.nbytes,)
    descr = "|u1"
    if len(metadata.shapes) == 1:
        shape, dtype = metadata.shapes[0], metadata.dtypes[0]
        descr = _DTYPES.get(dtype.name) or {1: "|u1", 2: "<u2"}[dtype.itemsize]
    text = repr({"descr": descr, "fortran_order": False, "shape": shape})
    padding = -(len(MAGIC) + 4 + len(text) + 1) % _ALIGNED
    header = f"{text}{' ' * padding}\n".encode("latin-1")
    return MAGIC + b"\x01\x00" + struct.pack("<H", len(header)) + header


def read_npy_header(file: BinaryIO, name: str) -> tuple[tuple[int, ...], DType]:
    """Reads the header of a file whose magic was read. The payload follows. Returns shape and dtype.

    Raises:
        InvalidArgumentError: it cannot be understood, or its array is of a kind that no chunk is.
    """
    try:
        version = file.read(2)
        length = (
            struct.unpack("<H", file.read(2))[0] if version[:1] == b"\x01" else struct.unpack("<I", file.read(4))[0]
        )
        if length > _MOST:
            raise ValueError("a header that is too long")
        found = ast.literal_eval(file.read(length).decode("latin-1"))
        descr, is_fortran, shape = found["descr"], found["fortran_order"], found["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError, struct.error) as error:
        raise InvalidArgumentError("file", f"{name} has no header of numpy that can be read: {error}") from None
    known = next(
        (dtype for dtype, text in _DTYPES.items() if text[1:] == str(descr)[1:] and str(descr)[0] in "<|="), None
    )
    if known is None or is_fortran or not isinstance(shape, tuple) or not shape:
        raise InvalidArgumentError(
            "file",
            f"{name} has dtype {descr!r}, shape {shape!r}, and Fortran's order is {is_fortran}; "
            "expected little-endian numbers in C's order, of at least one dimension",
        )
    return shape, dtype_of(known)
