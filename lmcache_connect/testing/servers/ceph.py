"""`CephServer`: Ceph's object gateway (RGW) with the smallest cluster behind it, in memory.

    with CephServer() as server:
        ...  # something that is given server.url()

A monitor, one object store daemon and the gateway, from Debian's packages `ceph-mon`, `ceph-osd`, `ceph-common` and
`radosgw`. It takes some ten seconds to start and about 300 MB of memory.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ...errors import MissingExtraError
from .process import NotReadyError, ServerStartError, unused_port
from .s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

_PROGRAMS: Final = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool")
_STEP_SECONDS: Final = 30.0
_ENDS_WITHIN: Final = 2.0
_PROGRAM_TRIES: Final = 5
_STORE_TRIES: Final = 8
_STORE_SECONDS: Final = 3.0

_CONFIG: Final = """
[global]
fsid = {cluster}
mon initial members = a
mon host = v1:127.0.0.1:{monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
osd objectstore = memstore
memstore device bytes = 4294967296
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
paxos propose interval = 0.05
paxos min wait = 0.01
mon data avail crit = 1
mon data avail warn = 1
mon data = {directory}/mon
osd data = {directory}/osd
keyring = {directory}/keyring
run dir = {directory}
admin socket =
log file =
log to stderr = true
err to stderr = true
rgw thread pool size = 64
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{gateway}
"""


class CephServer(S3Server):
    """See the module. Objects are in memory, and go when it stops."""

    product = "Ceph RGW"
    listens = "starting handler: beast"
    start_deadline = 45.0

    def __init__(self) -> None:
        super().__init__()
        self._behind: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def available() -> bool:
        """Whether Ceph's programs are installed."""
        return all(shutil.which(program) is not None for program in _PROGRAMS)

    def _command(self, directory: Path) -> list[str]:
        self._end_behind()
        shutil.rmtree(directory / "mon", ignore_errors=True)
        shutil.rmtree(directory / "osd", ignore_errors=True)
        cluster, monitor = str(uuid.uuid4()), unused_port()
        text = _CONFIG.format(cluster=cluster, monitor=monitor, gateway=self.port, directory=directory)
        (directory / "ceph.conf").write_text(text)
        (directory / "keyring").touch()
        for name in ("mon", "osd"):
            (directory / name).mkdir()
        address = f"[v1:127.0.0.1:{monitor}]"
        self._run(directory, "monmaptool", "--create", "--clobber", "--fsid", cluster, "--addv", "a", address, "monmap")
        self._run(directory, "ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap")
        self._begin(directory, "ceph-mon", "-i", "a", "-f")
        daemon = str(uuid.uuid4())
        self._run(directory, "ceph", "osd", "new", daemon)
        self._run(directory, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", daemon)
        self._begin_store(directory)
        user = ("--uid=connect", "--display-name=connect", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        self._run(directory, "radosgw-admin", "user", "create", *user)
        return ["radosgw", "-c", str(directory / "ceph.conf"), "-n", "client.rgw.a", "-f"]

    def _probe(self) -> None:
        super()._probe()
        try:
            from botocore.auth import S3SigV4Auth
            from botocore.awsrequest import AWSRequest
            from botocore.credentials import Credentials
        except ImportError as missing:
            raise MissingExtraError(self.product, missing.name or "botocore", "s3") from missing
        request = AWSRequest("PUT", f"{self.endpoint}/{BUCKET}", data=b"")
        S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
        connection = self._connection()
        try:
            connection.request("PUT", f"/{BUCKET}", headers=dict(request.headers.items()))
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise NotReadyError(str(error)) from error
        finally:
            connection.close()
        if status != 200:
            raise NotReadyError(f"making the bucket was answered with {status}")

    def _environment(self) -> Mapping[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("CEPH_")}

    def _end(self) -> None:
        super()._end()
        self._end_behind()

    # ---------------------------------------------------------------------------------- the cluster behind it

    def _begin_store(self, directory: Path) -> None:
        # Now and then a daemon never tells the monitor that it is there. Another one does.
        for _ in range(_STORE_TRIES):
            store = self._begin(directory, "ceph-osd", "-i", "0", "-f")
            ends = time.monotonic() + _STORE_SECONDS
            while time.monotonic() < ends:
                if b"osd.0 up" in self._run(directory, "ceph", "osd", "dump"):
                    return
                time.sleep(0.1)
            self._behind.remove(store)
            store.kill()
            store.wait()
        raise ServerStartError(self.product, f"the object store did not come up in {_STORE_TRIES} tries", "")

    def _run(self, directory: Path, program: str, *arguments: str) -> bytes:
        """Runs a program to its end, again where it fails. Returns what it has printed."""
        command = [program, *(() if program == "monmaptool" else ("-c", str(directory / "ceph.conf"))), *arguments]
        said = b""
        for _ in range(_PROGRAM_TRIES):
            try:
                done = subprocess.run(
                    command,
                    cwd=directory,
                    env=self._environment(),
                    check=False,
                    timeout=_STEP_SECONDS,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            except subprocess.TimeoutExpired as error:
                said = (error.output or b"") + f"\nit did not end within {_STEP_SECONDS:g} s".encode()
                break
            said = done.stdout
            if done.returncode == 0:
                return said
            time.sleep(0.1)  # the monitor refuses commands for moments while it starts
        self._end_behind()
        raise ServerStartError(self.product, f"{program} {arguments[0]} failed", said.decode(errors="replace")[-2000:])

    def _begin(self, directory: Path, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (directory / f"{program}.log").open("wb") as log:
            process = subprocess.Popen(
                [program, "-c", str(directory / "ceph.conf"), *arguments],
                cwd=directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self._behind.append(process)
        return process

    def _end_behind(self) -> None:
        # Killed: they have nothing to keep, and would take seconds to say so to each other.
        for process in self._behind:
            process.kill()
        ends = time.monotonic() + _ENDS_WITHIN
        for process in self._behind:
            process.wait(max(0.1, ends - time.monotonic()))
        self._behind.clear()
