"""Objects as they lie in a bucket, by botocore: past the connector, and by somebody else's client."""

from __future__ import annotations

from functools import cache
from typing import Any

import anyio.to_thread
import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.handlers import add_expect_header

from lmcache_connect.testing.servers.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from lmcache_connect_s3.object_names import ObjectNames


def client_of(server: S3Server) -> Any:
    """A client of botocore."""
    return _client(server.endpoint)


@cache  # each has a model of the service of its own, a million objects that every garbage collection looks at
def _client(endpoint: str) -> Any:
    client = botocore.session.Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )
    # Older botocore takes the end of rclone's "100 Continue" for the headers of the answer, and waits for its body.
    client.meta.events.unregister("before-call.s3", add_expect_header)
    return client


class RawS3:
    """Reads and writes what a connector with this prefix has under a key."""

    def __init__(self, server: S3Server, prefix: str) -> None:
        self._client = client_of(server)
        self._names = ObjectNames(prefix)

    async def read(self, key: str) -> bytes | None:
        return await anyio.to_thread.run_sync(self._read, self._names.name(key))

    async def write(self, key: str, data: bytes) -> None:
        await anyio.to_thread.run_sync(self._write, self._names.name(key), data)

    def _read(self, name: str) -> bytes | None:
        try:
            found: bytes = self._client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
                return None
            raise
        return found

    def _write(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=name, Body=data)
