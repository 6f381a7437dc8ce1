"""Stores of several kinds, as the tests of all engines' clients harm them: their records, and their servers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final
from uuid import uuid4

from lmcache_connect.testing import FaultProxy, RcloneServer, ValkeyServer
from lmcache_connect.testing.servers.process import ServerProcess
from lmcache_connect.testing.servers.s3 import BUCKET

from ..testing.conformance.raw_s3 import client_of

KINDS: Final = ("valkey", "s3")


class Store(ABC):
    """One server, a place in it, and its records, each found by a word that only its name holds.

    `answers_in_order`: whether the chunks of a batch come one after the other, in the order of its keys.
    """

    answers_in_order: ClassVar[bool]

    @property
    @abstractmethod
    def server(self) -> ServerProcess:
        """The server, which can be stopped and killed."""

    @abstractmethod
    def url(self, through: FaultProxy | None = None, **options: object) -> str:
        """The URL, straight or through a proxy. `attempts` is for S3 alone, and left out elsewhere."""

    @abstractmethod
    def read(self, word: str) -> bytes:
        """The record's bytes."""

    @abstractmethod
    def write(self, word: str, record: bytes) -> None:
        """Puts other bytes in the place of a record that is there."""

    @abstractmethod
    def remove(self, word: str) -> None:
        """Removes a record that is there."""


class ValkeyStore(Store):
    """A Valkey server. What it held before is gone."""

    answers_in_order = True

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server
        self._client = server.client()
        server.flush()

    @property
    def server(self) -> ServerProcess:
        return self._server

    def url(self, through: FaultProxy | None = None, **options: object) -> str:
        at = self._server if through is None else through
        query = "&".join(f"{name}={value}" for name, value in options.items() if name != "attempts")
        return f"redis://{at.host}:{at.port}{'?' if query else ''}{query}"

    def _name(self, word: str) -> bytes:
        [name] = [each for each in self._client.scan_iter(count=1000) if word.encode() in each]
        return bytes(name)

    def read(self, word: str) -> bytes:
        record = self._client.get(self._name(word))
        assert isinstance(record, bytes)
        return record

    def write(self, word: str, record: bytes) -> None:
        self._client.set(self._name(word), record)

    def remove(self, word: str) -> None:
        assert self._client.delete(self._name(word)) == 1


class S3Store(Store):
    """rclone, and a prefix of its own in the bucket."""

    answers_in_order = False

    def __init__(self, server: RcloneServer) -> None:
        self._server = server
        self._prefix = f"engines-{uuid4().hex}"
        self._client = client_of(server)

    @property
    def server(self) -> ServerProcess:
        return self._server

    def url(self, through: FaultProxy | None = None, **options: object) -> str:
        if through is not None:
            options["endpoint"] = f"http://{through.host}:{through.port}"
        return self._server.url(self._prefix, BUCKET, **options)

    def _object(self, word: str) -> dict[str, Any]:
        found = self._client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self._prefix}/")["Contents"]
        [name] = [each["Key"] for each in found if word in each["Key"]]
        return {"Bucket": BUCKET, "Key": name}

    def read(self, word: str) -> bytes:
        return bytes(self._client.get_object(**self._object(word))["Body"].read())

    def write(self, word: str, record: bytes) -> None:
        self._client.put_object(**self._object(word), Body=record)

    def remove(self, word: str) -> None:
        self._client.delete_object(**self._object(word))
