"""`TokenIssuer`: makes the users of a server expire, as a cloud's tokens do."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from lmcache_connect.testing.servers.redis import StoreServer


class TokenIssuer:
    """Each call returns a user, a password and for how many seconds they are good. Then the server forgets the user.

    It cuts the connections that are logged in as that user, whatever they do: a connection lives on where it has logged
    in as another one before.
    """

    def __init__(self, *servers: StoreServer, seconds: float, rights: str = "~* &* +@all") -> None:
        """The users may do what `rights` say."""
        self._servers = servers
        self._seconds = seconds
        self._rights = rights.split()
        self._users: dict[str, float] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._forget_users, daemon=True)
        self.issued = 0
        self.forgotten = 0
        self.fails = False
        """Whether calls raise an error."""

    def __call__(self) -> tuple[str, str, float]:
        if self.fails:
            raise OSError("the issuer has no answer now")
        with self._lock:
            self.issued += 1
            user, password = f"token-{self.issued}", f"the-password-{self.issued}"
            for server in self._servers:
                with server.client() as client:
                    client.execute_command("ACL", "SETUSER", user, "reset", "on", f">{password}", *self._rights)
            self._users[user] = time.monotonic() + self._seconds
            return user, password, self._seconds

    def _forget_users(self) -> None:
        while not self._over.wait(0.005):
            with self._lock:
                ended = [user for user, ends in self._users.items() if ends <= time.monotonic()]
                for user in ended:
                    del self._users[user]
                    for server in self._servers:
                        with server.client() as client:
                            client.execute_command("ACL", "DELUSER", user)
                    self.forgotten += 1

    def __enter__(self) -> TokenIssuer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(5)
