"""Valkey and Redis servers from images, for machines with a container engine (Docker, or what speaks as it does).

    with ValkeyContainer() as server:
        ...  # something that is given server.url()

They are what `ValkeyServer` and `RedisServer` are, with the same files, ports and methods, so `ClusterServers` and the
other groups can be made of them. A container uses the network of the engine's host, and the server's own directory at
the same path: the engine must run on this machine. They need testcontainers.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ...errors import MissingExtraError
from .redis import TLSServer

if TYPE_CHECKING:
    from .process import Process

_PULL_DEADLINE: Final = 300.0
_starting: Final = threading.Lock()  # testcontainers starts what cleans up after it with the first container, once
_ENGINE_GRACE: Final = 10.0  # seconds that the engine has for an answer of its own, beyond what is waited for


class ContainerServer(TLSServer):
    """Base of the two. Use a subclass, or one of your own with another `image`.

    Args:
        password, maxmemory, config, tls, certificates: as for every `TLSServer`.
    """

    image: ClassVar[str]
    """The image's name with its tag. The engine pulls it where it does not have it."""

    program: ClassVar[str]
    """The executable in the image."""

    start_deadline = _PULL_DEADLINE

    @classmethod
    def binary(cls) -> str:
        _testcontainers(cls.__name__)
        return cls.program

    @classmethod
    def available(cls) -> bool:
        """Whether testcontainers is installed and an engine answers on this machine."""
        return why_unavailable() is None

    def log_tail(self, lines: int = 20) -> str:
        process = self._process
        return process.log_tail(lines) if isinstance(process, _ContainerProcess) else ""

    def _spawn(self, command: list[str], directory: Path) -> Process:
        # As its entry point, or the image's script would change the user, who then could not enter the directory.
        container = (
            _testcontainers(type(self).__name__)
            .DockerContainer(self.image)
            .with_volume_mapping(str(directory), str(directory), "rw")
            .with_kwargs(
                entrypoint=command,
                network_mode="host",
                user=f"{os.getuid()}:{os.getgid()}",
                working_dir=str(directory),
            )
        )
        try:
            with _starting:
                container.start()
        except BaseException:
            container.get_docker_client().client.close()
            raise
        return _ContainerProcess(container)


class ValkeyContainer(ContainerServer):
    """Valkey, from the image of its project."""

    product = "valkey container"
    image = "valkey/valkey:9"
    program = "valkey-server"


class RedisContainer(ContainerServer):
    """Redis, from Docker's official image."""

    product = "redis container"
    image = "redis:8"
    program = "redis-server"


def why_unavailable() -> str | None:
    """Why no container can be started here, in one line; None where it can."""
    try:
        docker = importlib.import_module("docker")
        _testcontainers("containers")
    except ImportError:
        return "testcontainers is not installed; pip install 'lmcache-connect[containers]'"
    url = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if url.startswith("unix://") and not os.path.exists(url.removeprefix("unix://")):
        return f"no container engine listens at {url}; start one, or set DOCKER_HOST"
    try:
        with closing(docker.from_env(timeout=5)) as client:
            client.ping()
    except Exception as error:  # whatever the driver raises: no engine, no right to use it, a variable that is wrong
        return f"no container engine answers ({type(error).__name__}); start one, or set DOCKER_HOST"
    return None


class _ContainerProcess:
    """A container as the process of a server. It is removed once it has ended and was waited for."""

    def __init__(self, started: Any) -> None:
        self._started = started  # testcontainers' own object, whose end would be the container's
        self._container = started.get_wrapped_container()
        self._code: int | None = None
        self._log = ""

    @property
    def pid(self) -> int:
        """The process id that the engine's host knows."""
        self._container.reload()
        return int(self._container.attrs["State"]["Pid"])

    def poll(self) -> int | None:
        if self._code is None:
            self._container.reload()
            state = self._container.attrs["State"]
            return None if state["Status"] in {"created", "running", "paused"} else int(state["ExitCode"])
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        if self._code is not None:
            return self._code
        seconds = _ENGINE_GRACE if timeout is None else timeout
        try:
            code = int(self._container.wait(timeout=seconds)["StatusCode"])
        except OSError as error:  # requests' errors are, and a time-out is one of them
            raise subprocess.TimeoutExpired(self._container.name, seconds) from error
        self._log = self.log_tail(1000)
        self._container.remove(force=True, v=True)
        self._code = code
        self._started.get_docker_client().client.close()
        return code

    def terminate(self) -> None:
        self._container.kill(signal="SIGTERM")

    def kill(self) -> None:
        self._container.kill()

    def send_signal(self, sig: int, /) -> None:
        self._container.reload()
        is_paused = self._container.attrs["State"]["Status"] == "paused"
        if sig == signal.SIGSTOP and not is_paused:
            self._container.pause()
        elif sig == signal.SIGCONT and is_paused:
            self._container.unpause()

    def log_tail(self, lines: int) -> str:
        """The last lines that the server printed."""
        if self._code is None:
            self._log = self._container.logs(tail=lines).decode(errors="replace")
        return "\n".join(self._log.splitlines()[-lines:])


def _testcontainers(feature: str) -> ModuleType:
    try:
        return importlib.import_module("testcontainers.core.container")
    except ImportError as error:
        raise MissingExtraError(feature, "testcontainers", "containers") from error
