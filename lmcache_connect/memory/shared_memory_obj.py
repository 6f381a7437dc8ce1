"""`SharedMemoryObj`: one holder's read-only object for a chunk that several hold."""

from __future__ import annotations

from .memory_obj import MemoryObj


class SharedMemoryObj(MemoryObj):
    """A read-only object on the memory of another one, of which it holds a reference until it is released.

    Each holder has an object of its own: what one of them releases or shrinks changes nothing for the others.
    `byte_array` and `numpy()` are read-only views. `tensor` is a copy, because torch has no read-only tensors.
    """

    __slots__ = ("_base",)

    _base: MemoryObj

    def __init__(self, obj: MemoryObj) -> None:
        """Takes a reference of `obj`, or of what `obj` itself shares.

        Raises:
            ReleasedObjectError: `obj` was released.
        """
        base: MemoryObj = obj._base if isinstance(obj, SharedMemoryObj) else obj
        base.ref_count_up()
        self._base = base
        super().__init__(obj._live("share").toreadonly(), obj.metadata, _BASE_RELEASER)

    @property
    def data_ptr(self) -> int:
        """The address of the first byte, valid for as long as a reference is held. It is to be read from alone."""
        self._live("data_ptr")
        return self._base.data_ptr

    def belongs_to(self, owner: object) -> bool:
        """Whether `owner` is the memory that allocated the chunk."""
        return self._base.belongs_to(owner)


class _BaseReleaser:
    """The owner of shared objects: their reference on the chunk ends with them."""

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        base = obj._base  # type: ignore[attr-defined]
        if base.is_valid():  # others may have released one reference too many
            base.ref_count_down()

    def object_let_go(self, obj: MemoryObj) -> None:
        pass


_BASE_RELEASER = _BaseReleaser()
