"""`S3Options`: the options of an `s3://` URL."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from lmcache_connect import ConnectorOptions
from lmcache_connect.config import DURATION, SIZE, Bytes, Seconds

MIN_PART_BYTES: Final = 5 << 20
"""S3 takes smaller parts only as the last one of a multipart upload."""

MIN_RANGE_BYTES: Final = 1 << 20

MAX_PARTS: Final = 10_000

Count = Annotated[int, Field(ge=1, le=256)]


class S3Options(ConnectorOptions):
    """`s3://bucket/prefix?...`."""

    endpoint: str | None = None
    """`http://host:port` or `https://host` of a store that is not AWS; by default AWS in `region`."""

    region: str | None = None
    """By default the one in the host's name, the environment or the profile, else us-east-1."""

    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Where the bucket's name stands: in the `path` or the host's name (`virtual`). `auto`: virtual for AWS only."""

    prefix: str | None = None
    """A namespace in the bucket, such as `tenant/model`. The URL's path may name it instead."""

    profile: str | None = None
    """The profile of the AWS configuration files whose credentials are used."""

    access_key: str | None = None
    """The access key id, instead of those of the environment, the profile, the container or the instance."""

    secret_key: SecretStr | None = None
    """Its secret. The environment or a profile is a safer place, because URLs are passed around."""

    session_token: SecretStr | None = None
    """The session token of temporary credentials."""

    anonymous: bool = False
    """Whether requests are sent without a signature."""

    sign_payload: Literal["auto", "always", "never"] = "auto"
    """Whether what is put is hashed for the signature. `auto`: not over TLS, which protects it, and not on loopback."""

    object_checksum: Literal["none", "crc32", "sha256"] = "none"
    """S3's own checksum (`x-amz-checksum-*`), sent with puts and checked on gets in addition to the record's."""

    storage_class: str | None = None
    """The storage class of what is put, such as `ONEZONE_IA` or `EXPRESS_ONEZONE`."""

    requester_pays: bool = False
    """Whether the caller agrees to pay for requests (requester pays)."""

    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    """Server-side encryption of what is put. By default the bucket's."""

    sse_kms_key_id: str | None = None
    """The KMS key, for `sse=aws:kms`."""

    tags: str | None = None
    """Tags for what is put, for lifecycle rules: `name=value`, with `&` (written `%26`) between them."""

    pool_size: Count = 8
    """Connections for chunks. Look-ups and listings have as many of their own."""

    io: Literal["auto", "thread", "loop"] = "auto"
    """What moves a call's bytes: threads or the event loop. `auto`: threads from 1 MiB on."""

    threads: Count | None = None
    """How many threads move bytes at a time. By default one more than there are CPUs; more while they wait."""

    range_size: Annotated[int, SIZE, Field(ge=0, le=1 << 30)] = 16 << 20
    """Larger chunks are fetched in ranges of this many bytes, side by side. 0 fetches every chunk whole."""

    multipart_threshold: Annotated[int, SIZE, Field(ge=MIN_PART_BYTES, le=5 << 30)] = 64 << 20
    """Chunks of more bytes than this are put in parts, side by side (a multipart upload)."""

    part_size: Annotated[int, SIZE, Field(ge=MIN_PART_BYTES, le=5 << 30)] = 16 << 20
    """The size of a part in bytes."""

    attempts: Annotated[int, Field(ge=1, le=20)] = 4
    """How often one request is made at most, inside the deadline and while the retry budget lasts."""

    exists_cache: Annotated[float, DURATION, Field(ge=0, le=60, allow_inf_nan=False)] = 0.0
    """Seconds for which a key that was found counts as found. 0: every look-up asks. Misses are not remembered."""

    connect_timeout: Seconds = 5.0
    """How long connecting and the TLS handshake may take together, in seconds."""

    max_value_bytes: Bytes = 1 << 30
    """The longest record that is sent or received."""

    checksum: bool = True
    """Whether records are written with a checksum. A record that has one is always verified."""

    ca_file: str | None = None
    """Certificate authorities to trust instead of the system's (PEM)."""

    verify: bool = True
    """Whether the server's certificate is verified. `false` is for trials only."""

    @field_validator("range_size")
    @classmethod
    def _large_enough(cls, size: int) -> int:
        if 0 < size < MIN_RANGE_BYTES:
            raise ValueError(f"expected 0, or at least {MIN_RANGE_BYTES} bytes")
        return size

    @field_validator("prefix")
    @classmethod
    def _plain_prefix(cls, prefix: str | None) -> str | None:
        if prefix is not None and any(part in {"", ".", ".."} for part in prefix.strip("/").split("/")):
            raise ValueError("expected names with '/' between them, none of them empty, '.' or '..'")
        return prefix

    @field_validator("storage_class", "sse_kms_key_id", "tags", "access_key", "region", "profile")
    @classmethod
    def _fits_a_header(cls, text: str | None) -> str | None:
        if text is not None and (not text or not text.isascii() or not text.isprintable()):
            raise ValueError("expected printable ASCII, which a header can carry")
        return text

    @model_validator(mode="after")
    def _whole_credentials(self) -> Self:
        if (self.access_key is None) is not (self.secret_key is None):
            raise ValueError("access_key and secret_key belong together")
        if self.anonymous and self.access_key is not None:
            raise ValueError("anonymous excludes access_key")
        if self.sse_kms_key_id is not None and (self.sse or "") not in {"aws:kms", "aws:kms:dsse"}:
            raise ValueError("sse_kms_key_id needs sse=aws:kms")
        return self
