"""`Job`: one request of a call, which may be made several times."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lmcache_connect import StoreError

from .http_connection import HTTPConnection
from .retries import Tries


class Job(ABC):
    """One request, which may be made several times."""

    def __init__(self) -> None:
        self.tries = Tries()

    @property
    def goes_on(self) -> bool:
        """Whether it is for the rest of a chunk of which a part has come. Such a job goes before others."""
        return False

    @abstractmethod
    async def run(self, connection: HTTPConnection) -> None:
        """Makes the request. Waits for nothing but the stream: a thread may have taken it over."""

    def gave_up(self, error: StoreError) -> bool:
        """Told that the request is not made again. Returns whether `error` concerns this job alone, which then ends.

        Otherwise the whole call fails.
        """
        return False
