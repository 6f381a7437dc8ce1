"""`NativeClient`: the client that LMCache's adapter of the type `native_plugin` drives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..jobs import JobPort
from ..port_settings import PORT_OPTIONS
from .object_names import ObjectNames
from .opening import open_ports

Completion = tuple[int, bool, str, list[bool] | None]
"""What LMCache is told of a batch: its number, whether it went well, the error, and one answer per key."""

_OWN: Final = (*PORT_OPTIONS, "identity", "strict_identity")


class NativeClient:
    """Loads and stores the objects of LMCache's multi-process server, in the memory that LMCache owns.

    Every method may be called by any thread, and none of them blocks. Every batch ends by its deadline, with one answer
    per key. An object that is not there, is damaged, belongs to another key or has another length is False, and costs
    the other keys of its batch nothing. Once a batch has ended, nothing touches its memory.
    """

    def __init__(
        self,
        url: str = "",
        *,
        identity: Mapping[str, Any] | None = None,
        strict_identity: bool = False,
        **options: Any,
    ) -> None:
        """LMCache calls this with `adapter_params`. It connects on first use.

        Args:
            url: the store. "": the environment variable `LMCACHE_CONNECT_URL` has it.
            identity: what LMCache does not tell of its bytes: `dtype`, `kv_layout`, `revision` and so on.
            strict_identity: refuses to start where one of them is missing.
            options: those of `JobPort`, such as `deadline`, and settings of `ConnectorConfig`.

        Raises:
            InvalidConfigError: an option is missing, unknown, or has a wrong type or range.
            InvalidURLError, AdapterLoadError: no connector can be made for the URL.
        """
        self._names: Final = ObjectNames(identity, strict_identity=strict_identity)
        self.port: Final[JobPort] = open_ports(url, options, _OWN, 1)[0]
        """What runs the batches."""

    def event_fd(self) -> int:
        """A descriptor that is readable while batches have ended that `drain_completions` has not told."""
        return self.port.event_fd

    def submit_batch_get(self, keys: Sequence[str], views: Sequence[Any]) -> int:
        """Begins to load each object into its view. Returns the number of the batch.

        Raises:
            InvalidArgumentError: the counts differ, or a view is read-only or not contiguous.
            ConnectorClosedError: after `close`.
        """
        return self.port.submit_get(self._names.names(keys), views)

    def submit_batch_set(self, keys: Sequence[str], views: Sequence[Any]) -> int:
        """Begins to store each view. Returns the number of the batch. Raises what `submit_batch_get` raises."""
        return self.port.submit_put(self._names.names(keys), views)

    def submit_batch_exists(self, keys: Sequence[str]) -> int:
        """Begins to ask which objects are there. Returns the number of the batch."""
        return self.port.submit_exists(self._names.names(keys))

    def submit_batch_delete(self, keys: Sequence[str]) -> int:
        """Begins to remove objects. Returns the number of the batch. An answer says whether the object is gone."""
        return self.port.submit_remove(self._names.names(keys))

    def drain_completions(self) -> list[Completion]:
        """The batches that have ended since the last call, each once.

        A store that did not store every object has failed as a whole, as LMCache counts stores. A load has not, where
        some of its objects had come before it ended.
        """
        return [
            (
                result.id,
                result.ok if result.kind == "put" else result.error is None or any(result.flags),
                result.error or "",
                list(result.flags),
            )
            for result in self.port.drain()
        ]

    def report_status(self) -> dict[str, Any]:
        """The store, the counters of the batches, and what the store's names are made from. No secret."""
        return {**self.port.status(), "identity": self._names.status()}

    def close(self) -> None:
        """Ends all batches. When it returns, nothing touches LMCache's memory. Idempotent."""
        self.port.close()

    def __repr__(self) -> str:
        return f"<NativeClient on {self.port!r}>"
