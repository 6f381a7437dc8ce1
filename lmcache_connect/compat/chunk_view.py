"""`ChunkView`: what a guest's memory objects share, with LMCache and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ReleasedObjectError
from ..memory import MemoryObj
from ..metadata import ChunkMetadata
from .shapes import narrowed


class ChunkView:
    """A guest's object for the memory of `original`, a chunk in the arena. It counts references of its own.

    A borrowed view is what a `put` is given: it holds no reference of `original`. Any other view holds one reference,
    and releases it together with its own last reference. `original` may be None from then on.
    """

    original: MemoryObj | None
    is_borrowed: bool
    chunk_metadata: ChunkMetadata
    """What the view was made for. The guest may have changed the view's shape or size since."""

    if TYPE_CHECKING:
        # Of the memory object that a view also is.
        meta: Any

        def is_valid(self) -> bool: ...
        def get_size(self) -> int: ...
        def ref_count_down(self) -> None: ...

    def claimed(self) -> Any:
        """Takes one reference from the view and returns `original` with a reference for the caller.

        `original` is cut to what the guest made of the view. A view that was released already is returned as it is,
        and the managed connector refuses it.

        Raises:
            InvalidShapeError: the guest cut the view to something that is not a chunk.
        """
        original = self.original
        if original is None or not self.is_valid():
            return self
        original.ref_count_up()
        try:
            self.cut_original()
        except BaseException:
            original.ref_count_down()
            raise
        self.ref_count_down()
        return original

    def cut_original(self) -> MemoryObj:
        """Cuts `original` to the shape and size that the guest gave the view, and returns it.

        Raises:
            ReleasedObjectError: the view was released.
            InvalidShapeError: the guest cut the view to something that is not a chunk.
        """
        original = self.original
        if original is None:
            raise ReleasedObjectError("a memory object of LMCache's")
        metadata = narrowed(self.chunk_metadata, self.meta.shape, self.get_size())
        if metadata != original.metadata:
            original.shrink(metadata)
        return original
