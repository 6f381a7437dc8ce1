"""`L2Adapter`: the adapter that LMCache's multi-process server loads for the type `plugin`.

    {"type": "plugin", "module_path": "lmcache_connect.engines.lmcache", "class_name": "L2Adapter",
     "adapter_params": {"url": "redis://store:6379?ttl=86400", "max_capacity_gb": 512}}

For LMCache 0.5.6 and 0.5.7. Beside what `NativeClient` does, it lists keys, tells its status, does not remove what is
about to be loaded, and notices what the store has forgotten on its own.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from ...errors import InvalidConfigError, MissingEngineError
from ..event_descriptor import EventDescriptor
from ..job import JobResult
from ..port_settings import PORT_OPTIONS
from .accounts import Accounts
from .dispatcher import Dispatcher
from .object_names import ObjectNames
from .opening import open_ports

try:
    from lmcache.lmcache_native import Bitmap
    from lmcache.v1.distributed.api import KeyEntry, KeyListPage
    from lmcache.v1.distributed.internal_api import L2StoreResult
    from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
except ImportError as missing:
    raise MissingEngineError("L2Adapter", "LMCache's server", missing.name or "lmcache") from missing

_OWN: Final = ("identity", "strict_identity", "max_capacity_gb")


@dataclass(frozen=True, slots=True)
class _Task:
    """What was submitted: LMCache's keys, and the bytes of each object."""

    keys: list[Any]
    sizes: Sequence[int] = ()


class L2Adapter(L2AdapterInterface):  # type: ignore[misc]
    """Loads and stores LMCache's objects in the memory that LMCache owns. Thread-safe, and only `delete` blocks.

    Every task ends by its deadline, with one answer per key. An object that is not there, is damaged, belongs to
    another key or has another length counts as not loaded. Once a task has ended, nothing touches its memory.
    """

    def __init__(self, params: Mapping[str, Any], l1_memory_desc: object = None) -> None:
        """LMCache calls this with `adapter_params`. It connects on first use.

        Args:
            params: `url`; `max_capacity_gb`, in GiB, from which LMCache evicts (0: it does not); `identity` and
                `strict_identity`; the options of `JobPort`, and settings of `ConnectorConfig`.
            l1_memory_desc: where LMCache's memory lies. It is not needed here.

        Raises:
            InvalidConfigError: an option is missing, unknown, or has a wrong type or range.
            InvalidURLError, AdapterLoadError: no connector can be made for the URL.
        """
        given = dict(params)
        capacity = given.get("max_capacity_gb", 0)
        if isinstance(capacity, bool) or not isinstance(capacity, int | float) or not 0 <= capacity < 1 << 40:
            raise InvalidConfigError("adapter_params.max_capacity_gb", "expected a number of GiB from 0")
        super().__init__(max_capacity_bytes=int(capacity * (1 << 30)))
        self._names = ObjectNames(given.get("identity"), strict_identity=given.get("strict_identity", False))
        options = {name: value for name, value in given.items() if name not in (*_OWN, "url")}
        known = (*PORT_OPTIONS, *_OWN)
        # The second one is for what a thread waits for: no dispatcher may take it away.
        self._port, self._calls = open_ports(given.get("url"), options, known, 2)
        self._accounts = Accounts()
        self._lock = threading.Lock()
        self._has_ended = threading.Event()
        self._tasks: dict[int, _Task] = {}
        self._stores: dict[int, Any] = {}
        self._lookups: dict[int, Any] = {}
        self._loads: dict[int, Any] = {}
        self._has_stored, self._has_looked_up, self._has_loaded = (EventDescriptor() for _ in range(3))
        self._is_closed = False
        self._dispatcher = Dispatcher(self._port, self._told)

    # --------------------------------------------------------------------------------------------- descriptors

    def get_store_event_fd(self) -> int:
        """Readable after stores have ended. LMCache reads it."""
        return self._has_stored.fileno()

    def get_lookup_and_lock_event_fd(self) -> int:
        """Readable after look-ups have ended. LMCache reads it."""
        return self._has_looked_up.fileno()

    def get_load_event_fd(self) -> int:
        """Readable after loads have ended. LMCache reads it."""
        return self._has_loaded.fileno()

    # --------------------------------------------------------------------------------------------------- tasks

    def submit_store_task(self, keys: list[Any], objects: list[Any]) -> int:
        """Begins to store the objects. Returns the number of the task.

        Raises:
            InvalidArgumentError: the counts differ.
            ConnectorClosedError: after `close`.
        """
        views = [obj.byte_array for obj in objects]
        sizes = [view.nbytes for view in views]
        return self._begin(lambda: self._port.submit_put(self._names_of(keys), views), _Task(list(keys), sizes))

    def pop_completed_store_tasks(self) -> dict[int, Any]:
        """The stores that have ended, each once: LMCache's result by task. One object that is not stored fails it."""
        with self._lock:
            ended, self._stores = self._stores, {}
        return ended

    def submit_lookup_and_lock_task(self, keys: list[Any], group_layout_descs: object = None) -> int:
        """Begins to ask which objects are there, and to lock those against `delete`. Returns the number of the task."""
        return self._begin(lambda: self._port.submit_exists(self._names_of(keys)), _Task(list(keys)))

    def query_lookup_and_lock_result(self, task_id: int) -> Any:
        """LMCache's bitmap of the objects that are there, once. None: not yet, or there is no such task."""
        with self._lock:
            return self._lookups.pop(task_id, None)

    def submit_unlock(self, keys: list[Any]) -> None:
        """Takes one lock from each key."""
        self._accounts.unlock(keys)

    def submit_load_task(self, keys: list[Any], objects: list[Any]) -> int:
        """Begins to load into the objects. Returns the number of the task. Raises what `submit_store_task` raises."""
        views = [obj.byte_array for obj in objects]
        return self._begin(lambda: self._port.submit_get(self._names_of(keys), views), _Task(list(keys)))

    def query_load_result(self, task_id: int) -> Any:
        """LMCache's bitmap of the objects that were loaded, once. None: not yet, or there is no such task."""
        with self._lock:
            return self._loads.pop(task_id, None)

    # -------------------------------------------------------------------------------------------- for operators

    def delete(self, keys: list[Any]) -> None:
        """Removes objects, except those that are locked. Blocks until they are removed, or the deadline has passed."""
        free = self._accounts.unlocked(keys)
        if not free:
            return
        result = self._calls.wait(self._calls.submit_remove(self._names_of(free)), None)
        if result is None or result.error is not None:
            return  # the connector has told it; the objects count as they did
        self._forget([key for key, is_gone in zip(free, result.flags, strict=True) if is_gone])

    def list_l2_keys(self, model_name: str | None = None, page_size: int = 500, cursor: str | None = None) -> Any:
        """A page of the keys that this server has stored since it started, and that are still in the store.

        Args:
            model_name: only this model's keys.
            page_size: the most keys of the page.
            cursor: the `next_page_token` of the page before; None for the first.

        Raises:
            ValueError: `page_size` is below 1, or no page before has given this `cursor`.
            RuntimeError: the store did not answer.
        """
        if page_size < 1:
            raise ValueError(f"page_size is {page_size}; expected at least 1")
        if cursor is not None and cursor.count("@") < 3:
            raise ValueError("cursor is not the next_page_token of a page before")
        wanted = (
            (_text(key), key, size)
            for key, size in self._accounts.entries()
            if model_name is None or key.model_name == model_name
        )
        after = cursor or ""
        page = heapq.nsmallest(page_size + 1, (each for each in wanted if each[0] > after), key=itemgetter(0))
        more = len(page) > page_size
        del page[page_size:]
        if not page:
            return KeyListPage(entries=(), next_page_token=None)
        names = self._names_of([key for _, key, _ in page])
        result = self._calls.wait(self._calls.submit_exists(names), None)
        if result is None or result.error is not None:
            raise RuntimeError(f"the store did not answer: {result.error if result else 'no result'}")
        entries = tuple(
            KeyEntry(key=key.to_encoded_object_key(), size_bytes=size)
            for (_, key, size), is_there in zip(page, result.flags, strict=True)
            if is_there
        )
        return KeyListPage(entries=entries, next_page_token=page[-1][0] if more else None)

    def get_memory_tags(self) -> Any:
        """LMCache's tags of a medium that other hosts share. LMCache 0.5.6 has none, and does not ask."""
        from lmcache.v1.distributed.api import MemoryResidency, MemorySegment, MemoryTags

        return MemoryTags(MemorySegment.STORAGE, MemoryResidency.REMOTE)

    def report_status(self) -> dict[str, Any]:
        """What LMCache's status shows. Healthy: tasks end. A store that is down is seen in the failures by reason."""
        usage = self.get_usage()
        return {
            "is_healthy": self._dispatcher.is_alive and not self._is_closed,
            "type": type(self).__name__,
            "stored_object_count": len(self._accounts),
            "locked_key_count": self._accounts.locked,
            "current_size_bytes": usage.total_bytes_used,
            "max_capacity_bytes": usage.total_capacity_bytes,
            "identity": self._names.status(),
            **self._port.status(),
        }

    def close(self) -> None:
        """Ends all tasks. When it returns, nothing touches LMCache's memory, and no result comes. Idempotent.

        Another thread that calls it meanwhile waits for the same end.
        """
        with self._lock:
            is_first, self._is_closed = not self._is_closed, True
        if not is_first:
            self._has_ended.wait()
            return
        try:
            self._close_all()
        finally:
            self._has_ended.set()

    def _close_all(self) -> None:
        self._dispatcher.close()
        self._port.close()
        self._calls.close()
        with self._lock:
            for descriptor in (self._has_stored, self._has_looked_up, self._has_loaded):
                descriptor.close()

    # ---------------------------------------------------------------------------------------------------- results

    def _begin(self, submit: Callable[[], int], task: _Task) -> int:
        with self._lock:  # the result waits until the task is known
            number = submit()
            self._tasks[number] = task
            return number

    def _names_of(self, keys: Sequence[Any]) -> list[str]:
        return [self._names.name(_text(key)) for key in keys]

    def _told(self, result: JobResult) -> None:
        with self._lock:
            task = self._tasks.pop(result.id)
        true = [key for key, flag in zip(task.keys, result.flags, strict=True) if flag]
        added: list[int] = []
        try:
            match result.kind:
                case "put":
                    stored = [size for size, flag in zip(task.sizes, result.flags, strict=True) if flag]
                    added = self._accounts.enter(true, stored)
                    if true:
                        self._notify_keys_stored(true, added)
                case "get":
                    if true:
                        self._notify_keys_accessed(true)
                case _:
                    self._accounts.lock(true)
                    if result.error is None:
                        self._forget([key for key, flag in zip(task.keys, result.flags, strict=True) if not flag])
        finally:  # also where one of LMCache's listeners has failed
            self._publish(result, sum(added))

    def _forget(self, keys: list[Any]) -> None:
        """These objects are not in the store any more. Tells LMCache of those that this server has stored."""
        gone, sizes = self._accounts.leave(keys)
        if gone:
            self._notify_keys_deleted(gone, sizes)

    def _publish(self, result: JobResult, added: int) -> None:
        with self._lock:
            match result.kind:
                case "put":
                    self._stores[result.id] = L2StoreResult(result.ok, added)
                    self._has_stored.set()
                case "get":
                    self._loads[result.id] = _bitmap(result.flags)
                    self._has_loaded.set()
                case _:
                    self._lookups[result.id] = _bitmap(result.flags)
                    self._has_looked_up.set()


def _bitmap(flags: Sequence[bool]) -> Any:
    bitmap = Bitmap(len(flags))
    for index, flag in enumerate(flags):
        if flag:
            bitmap.set(index)
    return bitmap


def _text(key: Any) -> str:
    """LMCache's key as its native connectors write it."""
    text = f"{key.model_name}@{key.kv_rank:08x}@{key.object_group_id:x}@{key.chunk_hash.hex()}"
    return f"{text}@{key.cache_salt}" if key.cache_salt else text
