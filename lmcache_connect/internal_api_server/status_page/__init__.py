"""The status page: one HTML file without a build step. Its script asks `/status` every second."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class StatusPage:
    """The page, and the content security policy that lets a browser run its script and style and nothing else."""

    html: str
    content_security_policy: str

    @classmethod
    def load(cls) -> StatusPage:
        """Reads the page of this release."""
        html = files(__name__).joinpath("page.html").read_text("utf-8")
        script, style = (_digest(html, name) for name in ("script", "style"))
        policy = (
            f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        )
        return cls(html, policy)


def _digest(html: str, element: str) -> str:
    found = re.search(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
    text = found.group(1) if found is not None else ""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
