"""A Prometheus that scrapes servers of a test.

It is a program of the machine (Debian: `apt-get install prometheus`).
"""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmcache_connect.testing.servers.process import NotReadyError, ServerProcess


class Prometheus(ServerProcess):
    """Prometheus on a free port of 127.0.0.1, with a scrape every half second and the rules of `rule_file`."""

    product = "Prometheus"

    def __init__(self, targets: Sequence[str], rule_file: Path) -> None:
        super().__init__()
        self._targets = targets
        self._rule_file = rule_file

    @classmethod
    def path(cls) -> str | None:
        return shutil.which("prometheus")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now.

        Raises:
            AssertionError: Prometheus does not understand it.
        """
        found = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        assert found["status"] == "success", (expression, found)
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        """The rules, with their health and what is firing."""
        return [rule for group in self._get("/api/v1/rules")["data"]["groups"] for rule in group["rules"]]

    def _get(self, path: str) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self.host}:{self.port}{path}", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            with error:
                return {"status": error.code, "error": error.read().decode()}

    def _command(self, directory: Path) -> list[str]:
        settings = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(self._rule_file)],
            "scrape_configs": [{"job_name": "lmcache-connect", "static_configs": [{"targets": [*self._targets]}]}],
        }
        (directory / "prometheus.yml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
        return [
            str(self.path()),
            f"--config.file={directory}/prometheus.yml",
            f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address={self.host}:{self.port}",
            "--log.level=warn",
        ]

    def _probe(self) -> None:
        try:
            ready = self._get("/api/v1/query?query=1")
        except OSError as error:
            raise NotReadyError(str(error)) from error
        if ready["status"] != "success":
            raise NotReadyError(str(ready))
