"""`FakeEngine`: a container engine's API on a unix socket, whose containers are processes of this machine.

It knows what Docker's Python package asks for a server's life: images, create, start, inspect, kill, pause, wait, logs,
remove. A container's entry point is looked for on this machine's PATH, or where `programs` says.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import socketserver
import struct
import subprocess
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

VERSION: Final = "1.44"


class FakeContainer:
    """One container: what it was created with, and its process once it was started."""

    def __init__(self, identifier: str, spec: Mapping[str, Any]) -> None:
        self.identifier = identifier
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self.is_paused = False
        self.log = Path()

    def start(self, program: str, log: Path) -> None:
        arguments: list[str] = self.spec["Entrypoint"][1:]
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [program, *arguments], cwd=self.spec["WorkingDir"], stdout=file, stderr=subprocess.STDOUT
            )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def inspection(self) -> dict[str, Any]:
        code = self.process.poll() if self.process is not None else None
        status = "created" if self.process is None else "exited" if code is not None else "running"
        if self.is_paused and status == "running":
            status = "paused"
        return {
            "Id": self.identifier,
            "Name": f"/{self.identifier}",
            "Config": {"Tty": False, "Labels": {}, "Image": self.spec["Image"]},
            "HostConfig": {"LogConfig": {"Type": "json-file"}},
            "State": {
                "Status": status,
                "ExitCode": 128 - code if code is not None and code < 0 else code or 0,
                "Pid": self.process.pid if self.process is not None else 0,
            },
        }


class FakeEngine:
    """Listens while it is entered. `containers` has those that were not removed; `created`, what each was made of."""

    def __init__(self, path: Path, programs: Mapping[str, str] | None = None) -> None:
        self.url = f"unix://{path}"
        self.programs = dict(programs or {})
        self.images: set[str] = set()
        self.containers: dict[str, FakeContainer] = {}
        self.created: list[Mapping[str, Any]] = []
        self._path = path
        self._numbers = itertools.count(1)
        self._server = _Server(str(path), self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for container in self.containers.values():
            if container.process is not None:
                container.process.kill()
                container.process.wait()

    # ------------------------------------------------------------------------------------- what may be asked

    def answer(self, method: str, path: str, query: Mapping[str, list[str]], body: Any) -> tuple[int, Any]:
        """The status and the answer: bytes as they are, anything else as JSON."""
        for pattern, allowed, act in self._routes():
            match = re.fullmatch(pattern, path)
            if match is not None and method in allowed:
                return act(*match.groups(), query, body)
        return 404, {"message": f"the fake engine does not know {method} {path}"}

    def _routes(self) -> list[tuple[str, str, Callable[..., tuple[int, Any]]]]:
        found = r"/containers/(\w+)"
        return [
            (r"/_ping", "GET HEAD", lambda query, body: (200, b"OK")),
            (r"/version", "GET", lambda query, body: (200, {"ApiVersion": VERSION, "Version": "fake"})),
            (r"/info", "GET", lambda query, body: (200, {"ServerVersion": "fake", "Name": "fake"})),
            (r"/images/(.+)/json", "GET", self._image),
            (r"/images/create", "POST", self._pull),
            (r"/containers/create", "POST", self._create),
            (rf"{found}/start", "POST", self._start),
            (rf"{found}/json", "GET", self._inspect),
            (rf"{found}/kill", "POST", self._kill),
            (rf"{found}/pause", "POST", lambda name, query, body: self._freeze(name, is_paused=True)),
            (rf"{found}/unpause", "POST", lambda name, query, body: self._freeze(name, is_paused=False)),
            (rf"{found}/wait", "POST", self._wait),
            (rf"{found}/logs", "GET", self._logs),
            (found, "DELETE", self._remove),
        ]

    def _image(self, name: str, query: Any, body: Any) -> tuple[int, Any]:
        if name not in self.images:
            return 404, {"message": f"No such image: {name}"}
        return 200, {"Id": "sha256:0", "RepoTags": [name]}

    def _pull(self, query: Mapping[str, list[str]], body: Any) -> tuple[int, Any]:
        self.images.add(f"{query['fromImage'][0]}:{query['tag'][0]}")
        return 200, {"status": "Pull complete"}

    def _create(self, query: Any, body: dict[str, Any]) -> tuple[int, Any]:
        if body["Image"] not in self.images:
            return 404, {"message": f"No such image: {body['Image']}"}
        identifier = f"{next(self._numbers):064x}"
        self.containers[identifier] = FakeContainer(identifier, body)
        self.created.append(body)
        return 201, {"Id": identifier, "Warnings": []}

    def _start(self, name: str, query: Any, body: Any) -> tuple[int, Any]:
        container = self.containers[name]
        program = container.spec["Entrypoint"][0]
        found = self.programs.get(program) or shutil.which(program)
        if found is None:
            return 400, {"message": f"exec: {program!r}: executable file not found in $PATH"}
        container.start(found, self._path.with_name(f"log-{name[-6:]}"))
        return 204, b""

    def _inspect(self, name: str, query: Any, body: Any) -> tuple[int, Any]:
        if name not in self.containers:
            return 404, {"message": f"No such container: {name}"}
        return 200, self.containers[name].inspection()

    def _kill(self, name: str, query: Mapping[str, list[str]], body: Any) -> tuple[int, Any]:
        container = self.containers[name]
        if container.inspection()["State"]["Status"] not in {"running", "paused"}:
            return 409, {"message": f"container {name} is not running"}
        container.signal(signal.Signals[query.get("signal", ["SIGKILL"])[0]])
        return 204, b""

    def _freeze(self, name: str, *, is_paused: bool) -> tuple[int, Any]:
        container = self.containers[name]
        if container.is_paused is is_paused:
            return 409, {"message": f"container {name} is {'already' if is_paused else 'not'} paused"}
        container.is_paused = is_paused
        container.signal(signal.SIGSTOP if is_paused else signal.SIGCONT)
        return 204, b""

    def _wait(self, name: str, query: Any, body: Any) -> tuple[int, Any]:
        container = self.containers[name]
        assert container.process is not None
        container.process.wait()
        return 200, {"StatusCode": container.inspection()["State"]["ExitCode"]}

    def _logs(self, name: str, query: Mapping[str, list[str]], body: Any) -> tuple[int, Any]:
        lines = self.containers[name].log.read_bytes().splitlines(keepends=True)[-int(query["tail"][0]) :]
        return 200, b"".join(struct.pack(">BxxxL", 1, len(line)) + line for line in lines)

    def _remove(self, name: str, query: Any, body: Any) -> tuple[int, Any]:
        container = self.containers.pop(name)
        if container.process is not None:
            container.process.kill()
            container.process.wait()
        return 204, b""


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, engine: FakeEngine) -> None:
        self.engine = engine
        super().__init__(path, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        path = re.sub(r"^/v[\d.]+(?=/)", "", parts.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parsed = json.loads(body) if body else None
        status, answer = self.server.engine.answer(self.command, path, parse_qs(parts.query), parsed)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Api-Version", VERSION)
        self.send_header("Connection", "close")
        self.send_header("Content-Type", "text/plain" if isinstance(answer, bytes) else "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if status != 204 and self.command != "HEAD":
            self.wfile.write(data)

    def __getattr__(self, name: str) -> Any:
        if name in {"do_GET", "do_HEAD", "do_POST", "do_DELETE"}:
            return self._serve
        raise AttributeError(name)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
