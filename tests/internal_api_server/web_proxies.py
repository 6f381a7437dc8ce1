"""HAProxy and nginx in front of an internal API, as operators run them, on free ports of 127.0.0.1.

Both are programs of the machine (Debian: `apt-get install haproxy nginx`).
"""

from __future__ import annotations

import shutil
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar, Final

from lmcache_connect.testing.servers.process import NotReadyError, ServerProcess

PREFIX: Final = "/cache/api/"
"""Where nginx shows what it leads to."""


class WebProxy(ServerProcess):
    """Base of the two proxies. Use a subclass. `target` is the port of the internal API."""

    program: ClassVar[str]

    def __init__(self, target: int) -> None:
        super().__init__()
        self._target = target

    @classmethod
    def path(cls) -> str | None:
        # Debian puts both where only root's PATH leads to.
        return shutil.which(cls.program) or shutil.which(cls.program, path="/usr/local/sbin:/usr/sbin")

    def get(self, path: str) -> tuple[int, str]:
        """The status and the text of what the proxy answers."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self.host}:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def _probe(self) -> None:
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                pass
        except OSError as error:
            raise NotReadyError(str(error)) from error


class HAProxy(WebProxy):
    """HAProxy that leads to the internal API while `/health/ready` says so, asked by `option httpchk` as it stands."""

    product = "HAProxy"
    program = "haproxy"

    def __init__(self, target: int, method: str) -> None:
        super().__init__(target)
        self._method = method

    def _command(self, directory: Path) -> list[str]:
        configuration = directory / "haproxy.cfg"
        configuration.write_text(
            "global\n  maxconn 64\n"
            "defaults\n  mode http\n  timeout connect 1s\n  timeout client 10s\n  timeout server 10s\n"
            f"listen api\n  bind {self.host}:{self.port}\n"
            f"  option httpchk {self._method} /health/ready\n"
            f"  server one {self.host}:{self._target} check inter 50ms fall 1 rise 1\n",
            encoding="utf-8",
        )
        return [str(self.path()), "-f", str(configuration)]


class Nginx(WebProxy):
    """nginx that shows the internal API under `PREFIX`, and takes that off unless `strips` is False."""

    product = "nginx"
    program = "nginx"

    def __init__(self, target: int, *, strips: bool = True) -> None:
        super().__init__(target)
        self._strips = strips

    def _command(self, directory: Path) -> list[str]:
        configuration = directory / "nginx.conf"
        temporary = "".join(
            f"  {kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        path = "/" if self._strips else ""
        configuration.write_text(
            f"daemon off;\nerror_log stderr;\npid {directory}/nginx.pid;\nevents {{ worker_connections 64; }}\n"
            f"http {{\n  access_log off;\n{temporary}  server {{\n    listen {self.host}:{self.port};\n"
            f"    location {PREFIX} {{ proxy_pass http://{self.host}:{self._target}{path}; }}\n  }}\n}}\n",
            encoding="utf-8",
        )
        return [str(self.path()), "-c", str(configuration), "-p", str(directory)]
