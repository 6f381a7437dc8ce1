"""`Host`: vLLM's scheduler, as far as one tier sees it, over a primary tier that is an array of bytes."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, Final

from .restated import Names

CHUNK: Final = 8192
AT_MOST: Final = 20.0
"""Seconds that a test waits for something that comes at once."""


def key_of(number: int, group: int = 0) -> bytes:
    """A key as vLLM makes them: a block's hash, and the group in four bytes."""
    return number.to_bytes(32, "big") + group.to_bytes(4, "big")


def content_of(number: int, group: int = 0, nbytes: int = CHUNK) -> bytes:
    """Bytes that tell the key."""
    return random.Random(number * 1000 + group).randbytes(nbytes)


class Host:
    """One engine with one tier. It takes steps as vLLM's scheduler does."""

    def __init__(
        self,
        tier_class: Any,
        names: Names,
        spec: Any,
        *,
        chunks: int = 32,
        nbytes: int = CHUNK,
        memory: Any = None,
        **options: Any,
    ) -> None:
        """`memory` is a buffer of `chunks` times `nbytes` bytes; None: one is made."""
        self.names = names
        self.memory = bytearray(chunks * nbytes) if memory is None else memory
        self.view = memoryview(self.memory).cast("B", (chunks, nbytes))
        self.nbytes = nbytes
        self.tier = tier_class(
            offloading_spec=spec, primary_kv_view=self.view, tier_type="Tier", backpressure_detector=None, **options
        )
        self._jobs = 0
        self._results: dict[int, Any] = {}

    def close(self) -> None:
        self.tier.shutdown()

    # ------------------------------------------------------------------------------------------------ memory

    def write(self, chunk: int, data: bytes) -> None:
        self.memory[chunk * self.nbytes : (chunk + 1) * self.nbytes] = data

    def read(self, chunk: int) -> bytes:
        return bytes(self.memory[chunk * self.nbytes : (chunk + 1) * self.nbytes])

    # ------------------------------------------------------------------------------------------------- steps

    def step(self) -> None:
        """The end of a step, and what the next one begins with."""
        self.tier.on_schedule_end(self.names.schedule_end)
        for result in self.tier.get_finished_jobs():
            assert result.job_id not in self._results, "a job was reported twice"
            self._results[result.job_id] = result

    def request(self, name: str) -> Any:
        context = self.names.req_context(name)
        self.tier.on_new_request(context)
        return context

    def look_up(self, keys: Sequence[bytes], context: Any, at_most: float = AT_MOST) -> list[bool]:
        """Asks for the keys in every step until all are answered."""
        result = self.names.lookup_result
        ends = time.monotonic() + at_most
        while True:
            answers = [self.tier.lookup(key, context) for key in keys]
            if result.RETRY not in answers:
                return [answer is result.HIT for answer in answers]
            assert time.monotonic() < ends, "a look-up was not answered"
            self.step()
            time.sleep(0.0005)

    def submit(self, kind: str, keys: Sequence[bytes], chunks: Sequence[int], context: Any) -> int:
        """Submits a `load` or a `store`, and returns its number."""
        job = self.names.transfer_job(
            job_id=self._jobs, keys=keys, chunk_ids=chunks, is_promotion=kind == "load", req_context=context
        )
        self._jobs += 1
        getattr(self.tier, f"submit_{kind}")(job)
        return int(job.job_id)

    def result(self, job: int, at_most: float = AT_MOST) -> Any:
        """Takes steps until the job has ended, and returns its result."""
        ends = time.monotonic() + at_most
        while job not in self._results:
            assert time.monotonic() < ends, "a job was not reported"
            self.step()
            time.sleep(0.0005)
        return self._results.pop(job)

    def run(self, kind: str, keys: Sequence[bytes], chunks: Sequence[int], context: Any) -> Any:
        return self.result(self.submit(kind, keys, chunks, context))

    def store(self, numbers: Sequence[int], group: int = 0) -> None:
        """Stores chunks whose bytes tell their keys."""
        for chunk, number in enumerate(numbers):
            self.write(chunk, content_of(number, group, self.nbytes))
        context = self.request("stores")
        result = self.run("store", [key_of(number, group) for number in numbers], range(len(numbers)), context)
        assert result.success
        self.tier.on_request_finished(context)

    def loaded(self, result: Any, keys: Sequence[bytes]) -> list[bool]:
        """Which keys of a load vLLM takes as loaded, by the rules of vLLM's manager."""
        if result.success:
            return [True] * len(keys)
        good = set(result.successful_keys or ())
        assert good <= set(keys)
        return [key in good for key in keys]
