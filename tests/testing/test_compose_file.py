"""What `compose/redis.yaml` runs in containers comes up as processes: the same commands, health checks and order."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from redis.cluster import RedisCluster

from lmcache_connect.testing.servers.process import unused_port

yaml: Any = pytest.importorskip("yaml", reason="pip install pyyaml")
ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "compose/redis.yaml"
PAGE: Final = ROOT / "docs/testing-on-redis.md"
SERVICES: Final[dict[str, dict[str, Any]]] = yaml.safe_load(FILE.read_text())["services"]
PROFILES: Final = sorted({profile for service in SERVICES.values() for profile in service["profiles"]})
DEADLINE: Final = 30.0

pytestmark = [
    pytest.mark.tls,
    pytest.mark.skipif(
        not all(map(shutil.which, ("redis-server", "redis-cli", "openssl"))),
        reason="redis-server, redis-cli or openssl is not on PATH",
    ),
]


class Composed:
    """The services of one profile as processes, with free ports and folders instead of those of the file."""

    def __init__(self, profile: str, folder: Path, stack: ExitStack) -> None:
        self._services = {name: service for name, service in SERVICES.items() if profile in service["profiles"]}
        self._folder = folder
        self._stack = stack
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, str] = {}

    def start(self) -> None:
        for name in self._services:
            self._start(name)
        for name in self._services:
            self._await(name)

    def port(self, port: str) -> str:
        """The port that stands for one of the file."""
        if port not in self._ports:
            self._ports[port] = str(_port_of_a_node())
        return self._ports[port]

    def localized(self, text: str, name: str) -> str:
        text = text.replace("${PROGRAM:-valkey}", "redis")
        text = re.sub(r"(?<![\d.])70\d\d\b", lambda found: self.port(found.group()), text)
        own = self._folder / name
        own.mkdir(exist_ok=True)
        return re.sub(
            r"/tmp\b|/run/lmcache-connect|/certificates",
            lambda found: str(own if found.group() == "/tmp" else self._folder),
            text,
        )

    def _start(self, name: str) -> None:
        if name in self._processes:
            return
        service = self._services[name]
        for other in service.get("depends_on", {}):
            self._start(other)
            self._await(other)
        (command,) = service["command"]
        self._processes[name] = process = subprocess.Popen(
            [*service["entrypoint"], self.localized(command, name)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._stack.callback(_end, process)

    def _await(self, name: str) -> None:
        service, process = self._services[name], self._processes[name]
        if "healthcheck" not in service:
            assert process.wait(DEADLINE) == 0
            return
        kind, check = service["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        ends = time.monotonic() + DEADLINE
        while subprocess.run(["sh", "-c", self.localized(check, name)], capture_output=True, check=False).returncode:
            assert process.poll() is None, process.stdout and process.stdout.read().decode()
            assert time.monotonic() < ends, name
            time.sleep(0.05)


def _port_of_a_node() -> int:
    """A free port whose port for the bus of a cluster, which is 10000 above it, is free as well.

    It is below the range from which outgoing connections take theirs.
    """
    while True:
        port = unused_port()
        with socket.socket() as probe:
            if port + 10_000 < 32_768 and probe.connect_ex(("127.0.0.1", port + 10_000)) != 0:
                return port


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.kill()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="c-") as folder:  # short: a unix socket is in it
        yield Path(folder)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_comes_up_healthy(profile: str, folder: Path) -> None:
    with ExitStack() as stack:
        composed = Composed(profile, folder, stack)
        composed.start()
        if profile == "cluster":
            port = int(composed.port("7011"))
            with RedisCluster(host="127.0.0.1", port=port, protocol=2) as client:
                assert client.set("key", "value")
                assert len(client.get_primaries()) == 3


def test_the_page_has_a_url_for_every_profile() -> None:
    ports = {port for service in SERVICES.values() for port in re.findall(r"port (7\d+)", str(service))}
    section = PAGE.read_text().split("## By hand")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section, flags=re.MULTILINE)
    assert sorted(profile for profile, _ in rows) == PROFILES
    shown = set(re.findall(r":(7\d\d\d)\b", section))
    data_of_sentinels = {"7021", "7022", "7023"}
    assert ports - data_of_sentinels <= shown


def test_a_service_keeps_to_loopback() -> None:
    for name, service in SERVICES.items():
        (command,) = service["command"]
        assert "-server" not in command or "--bind 127.0.0.1" in command or "bind 127.0.0.1\n" in command, name
