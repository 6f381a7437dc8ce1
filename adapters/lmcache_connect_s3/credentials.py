"""`CredentialSource`: credentials from the options or from botocore's chain, kept until they expire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import anyio

from lmcache_connect import AuthenticationError, StoreError
from lmcache_connect.errors import LMCacheConnectError, MissingExtraError
from lmcache_connect.known_secrets import Holder, know
from lmcache_connect.outside import Lane, SharedQuestion

from .options import S3Options

try:
    import botocore.exceptions
    import botocore.session
    from botocore.credentials import Credentials, ReadOnlyCredentials
except ImportError as missing:
    raise MissingExtraError("s3://", missing.name or "botocore", "s3") from missing

_AT_ONCE: Final = 2
"""Questions to the chain that may be under way. The second helps where the first hangs; a third would not."""

_LONGEST: Final = 60.0
"""Seconds after which a question is given up: it hangs."""

_CHAIN: Final = "the environment, the profile, the container and the instance"


class _Answer(NamedTuple):
    """What the chain has answered: botocore's session and its credentials, and these as they are now."""

    session: Any
    found: Any
    frozen: ReadOnlyCredentials | None
    region: str | None


class CredentialSource:
    """Looks in the options, then in botocore's chain: environment, profile (also SSO and roles), container, instance.

    The chain reads files, asks servers and runs the profile's `credential_process`, so it runs in a thread. All callers
    wait for one question. One whose time is up leaves it to those that come later, which a slow process serves then.
    Temporary credentials are renewed before they expire. While those at hand stay good for some minutes, requests do
    not wait for that. Lives on one event loop.
    """

    def __init__(self, store: str, options: S3Options, lane: Lane) -> None:
        self._store = store
        self._lane = lane.branch(f"{store} credentials", _AT_ONCE)
        self._options = options
        self._session: Any = None
        self._found: Any = None
        self._frozen: ReadOnlyCredentials | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._question: Final = SharedQuestion(f"the credentials of {store}", self._ask)
        self._known: Holder | None = None
        self.region: str | None = None
        """The region that the environment or the profile names, if any. Known after the first `current()`."""

    async def current(self) -> ReadOnlyCredentials | None:
        """Returns credentials that are good now. None: requests are not signed.

        Raises:
            AuthenticationError: there are none, or they cannot be renewed.
        """
        if self._options.anonymous:
            if self._session is None:
                await self._renew(lambda: self._session is None)
            return None
        if self._has_to_wait():
            await self._renew(self._has_to_wait)
        elif self._is_due() and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.get_running_loop().create_task(self._renew_quietly())
        return self._frozen

    async def refresh(self, refused: ReadOnlyCredentials | None) -> bool:
        """Asks the chain again, because the store refused `refused`. Returns whether there are others now."""
        if self._options.access_key is not None or self._options.anonymous:
            return False
        if self._frozen is refused:
            await self._renew(lambda: self._frozen is refused, from_scratch=True)
        return self._frozen != refused

    def close(self) -> None:
        """Stops a renewal in the background."""
        if self._renewing is not None:
            self._renewing.cancel()
        self._question.close()
        self._lane.close()

    async def _renew_quietly(self) -> None:
        try:
            await self._renew(self._is_due)
        except LMCacheConnectError:
            pass  # those at hand are still good, and the call that finds none raises

    async def _renew(self, is_needed: Callable[[], bool], *, from_scratch: bool = False) -> None:
        """Asks the chain, unless the question of another call helps. `from_scratch`: forgets what it said before."""
        await self._question.ask(is_needed, self._forget if from_scratch else None)

    def _forget(self) -> None:
        self._found = self._session = None

    async def _ask(self) -> None:
        resolve = partial(_resolve, self._store, self._options, self._session, self._found)
        try:
            with anyio.fail_after(_LONGEST):
                answer = await self._lane.run_in_thread("the credentials' chain", resolve)
        except StoreError:  # some are an OSError, too
            raise
        except (botocore.exceptions.BotoCoreError, OSError, ValueError) as error:
            if isinstance(error, TimeoutError):
                self._forget()  # the thread may still use them
            # Its text may hold the answer of a metadata server, so only its class is shown.
            raise AuthenticationError(
                self._store, f"no credentials: asking {_CHAIN} failed with {type(error).__name__}"
            ) from None
        self._session, self._found, self._frozen, self.region = answer
        if self._frozen is not None:
            self._known = know(Holder(), self._frozen.secret_key, self._frozen.token)

    def _has_to_wait(self) -> bool:
        return self._frozen is None or self._asks("_mandatory_refresh_timeout")

    def _is_due(self) -> bool:
        return self._asks("_advisory_refresh_timeout")

    def _asks(self, timeout: str) -> bool:
        needed = getattr(self._found, "refresh_needed", None)
        return needed is not None and bool(needed(getattr(self._found, timeout, None)))


def _resolve(store: str, options: S3Options, session: Any, found: Any) -> _Answer:
    """Asks the chain, in a thread. `session` and `found` are of the last answer, or None."""
    if session is None:
        session = botocore.session.Session(profile=options.profile)
    region = session.get_config_variable("region")
    if options.anonymous:
        return _Answer(session, None, None, region)
    if options.access_key is not None and options.secret_key is not None:
        token = options.session_token.get_secret_value() if options.session_token is not None else None
        given = Credentials(options.access_key, options.secret_key.get_secret_value(), token)
        return _Answer(session, None, given.get_frozen_credentials(), region)
    if found is None:
        found = session.get_credentials()
    if found is None:
        raise AuthenticationError(
            store,
            f"no credentials: {_CHAIN} have none; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ?profile=, "
            "or ?anonymous=true for a bucket that is open to everybody",
        )
    return _Answer(session, found, found.get_frozen_credentials(), region)  # renews them where they have to be
