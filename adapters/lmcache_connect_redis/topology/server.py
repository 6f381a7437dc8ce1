"""`Server`: what a connector opens its connections to, one server at a time."""

from __future__ import annotations

from typing import Protocol

from ..protocol.connection import Connection


class Server(Protocol):
    """One server, or the one of several that is the right one at the time."""

    @property
    def is_tls(self) -> bool:
        """Whether connections are encrypted."""
        ...

    async def open_connection(self) -> Connection:
        """Opens a connection that is ready for commands. The caller sets the deadline.

        Raises:
            StoreUnavailableError, AuthenticationError, CertificateError, and what else the server answers.
        """
        ...
