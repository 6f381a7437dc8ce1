"""`ServerReaching`: from a name to a connection that is logged in."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Final

from lmcache_connect import AuthenticationError, StoreError
from lmcache_connect.contract import Finding, Verdict
from lmcache_connect.errors import CertificateError, StoreLoadingError, TLSMismatchError
from lmcache_connect.streaming import Reaching, certificate_finding

from ..options import DEFAULT_PORT
from ..protocol.connection import Connection
from ..topology.single import SingleServer

_TLS_ADVICE: Final = "see the table of TLS errors in docs/operating.md"
_LOGIN_ADVICE: Final = "correct the user or the password: in the URL, ?password_file=, ?password_env= or ?credentials="


class ServerReaching:
    """Opens one connection to a server, and tells each step. `connection` is there when all of them went well."""

    def __init__(self, server: SingleServer, timeout: float) -> None:
        """`timeout`: seconds for all steps together."""
        self._server: Final = server
        self._steps: Final = Reaching(timeout)
        self.connection: Connection | None = None

    async def findings(self) -> AsyncIterator[Finding]:
        """Yields a finding for each step. The last one is `UNUSABLE` where the server cannot be reached."""
        url = self._server.url
        try:
            if url.scheme == "unix":
                finding = await self._steps.connect_to_path(url.path)
                yield finding
                if finding.verdict is Verdict.UNUSABLE:
                    return
            else:
                async for finding in self._steps.connect(*url.single_host(DEFAULT_PORT)):
                    yield finding
                    if finding.verdict is Verdict.UNUSABLE:
                        return
            self.connection = await self._steps.in_time(self._server.open_connection())
        except (CertificateError, TLSMismatchError) as error:
            yield Finding("TLS", Verdict.UNUSABLE, error.message, _TLS_ADVICE)
        except AuthenticationError as error:
            yield Finding("login", Verdict.UNUSABLE, error.message, _LOGIN_ADVICE)
        except StoreLoadingError as error:
            yield Finding("login", Verdict.UNUSABLE, error.message, "wait; INFO persistence says how far it is")
        except StoreError as error:
            yield Finding("login", Verdict.UNUSABLE, error.message, "see what is behind this address, and its log")
        except TimeoutError:
            yield self._steps.silence()
        else:
            certificate = self.connection.stream.peer_certificate()
            if certificate is not None:
                yield certificate_finding(certificate, time.time())
            yield _login_finding(self.connection)


def _login_finding(connection: Connection) -> Finding:
    credential = connection.credential
    if credential.password is None and credential.username is None:
        advice = "set a password (ACL SETUSER, requirepass), unless nobody else can reach the port"
        return Finding("login", Verdict.NOTE, "the server wants no password", advice)
    who = "the default user" if credential.username is None else f"user {credential.username!r}"
    return Finding("login", Verdict.GOOD, f"as {who}")
