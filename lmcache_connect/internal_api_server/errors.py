"""The errors of the internal API server."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import LMCacheConnectError


class APIModuleError(LMCacheConnectError, ImportError):
    """A module of the internal API cannot be added to an application. `module` is its name, or the router's source."""

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(f"the API module {module} was left out: {reason}")
        self.module = module
        self.reason = reason


class DuplicateRouteError(APIModuleError):
    """A route exists already. `route` reads `GET /version`; `registered` is the module that has it."""

    def __init__(self, module: str, route: str, registered: str) -> None:
        super().__init__(module, f"its route {route} is taken already by {registered}; give it another path")
        self.route = route
        self.registered = registered


class APIRegistrationError(LMCacheConnectError, ImportError):
    """Modules of the internal API were left out although `strict` was set. `failures` says which, and why."""

    def __init__(self, failures: Iterable[str]) -> None:
        self.failures = tuple(failures)
        super().__init__("; ".join(self.failures))


class ServerBindError(LMCacheConnectError, OSError):
    """The internal API server cannot listen on its address. `address` reads `127.0.0.1:8000` or `unix:/path`."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address
        self.reason = reason


class ServerStateError(LMCacheConnectError, RuntimeError):
    """The internal API server was started twice, or its application did not start. `reason` says which."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the internal API server cannot start: {reason}")
        self.reason = reason
