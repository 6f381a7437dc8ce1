"""`CredentialCallable`: credentials that expire, from other people's code, which is asked again ahead of the expiry."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import anyio

from lmcache_connect import AuthenticationError
from lmcache_connect.errors import AbandonedCallsError
from lmcache_connect.observability import event
from lmcache_connect.outside import Lane, SharedQuestion

from ..protocol.credential import Credential, LatestCredential, NewestCredential
from .answer import CredentialAnswer, WrongAnswerError
from .credentials import Credentials

_AT_ONCE: Final = 2
"""Calls that may run. The second helps where the first hangs; a third would not."""

_AHEAD: Final = 0.25
"""The part of a credential's time that is left when another one is asked for, `_LONGEST_AHEAD` seconds at most."""

_LONGEST_AHEAD: Final = 300.0

_LONGEST_TIMER: Final = 86_400.0

_FIRST_PAUSE: Final = 0.25
"""Seconds after a question that has failed until the next one. It doubles each time, up to `_LONGEST_PAUSE`."""

_LONGEST_PAUSE: Final = 4.0

_REFUSED: Final = 4
"""So many credentials are remembered that the server has refused."""

_NONE: Final = Credential()


class _Held(NamedTuple):
    """A credential, and when it expires by `time.monotonic`."""

    credential: Credential
    expires: float

    @property
    def is_good(self) -> bool:
        return time.monotonic() < self.expires


_NOTHING: Final = _Held(_NONE, -math.inf)


class CredentialCallable(Credentials):
    """Asks a callable on first use, ahead of each expiry, and where the server refuses what it said.

    It is asked in a thread that is left behind where it hangs. One question serves all connections. Where asking fails,
    the credential at hand serves for as long as it is good, and the callable is asked again after a pause. Where a
    server refuses a credential, the one before it serves there, if that is still good.
    """

    def __init__(self, store: str, call: Callable[[], Any], seconds: float, lane: Lane) -> None:
        """`call` has `seconds` for each answer. What it leaves behind is counted in `lane`."""
        self._store: Final = store
        self._call: Final = call
        self._limit: Final = seconds
        self._lane: Final = lane.branch(f"{store} credentials", _AT_ONCE)
        self._question: Final = SharedQuestion(f"the credentials of {store}", self._ask)
        self._newest: Final = NewestCredential(_NONE)
        self._held = _NOTHING
        self._previous = _NOTHING
        self._refused: deque[Credential] = deque(maxlen=_REFUSED)
        self._is_taken = False
        """Whether a server has taken the credential at hand."""
        self._falls_back = False
        """Whether a server has taken the credential before, and has refused the one at hand."""
        self._failure = ""
        self._pause = 0.0
        self._pause_ends = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def new_latest(self) -> LatestCredential:
        return LatestCredential(self._newest)

    async def current(self) -> Credential:
        """Returns the credential at hand. Asks where there is none that is good, but not within a pause.

        Raises:
            AuthenticationError: the callable failed, or did not answer in time. Its error's text is not shown.
        """
        if not self._held.is_good:
            if self._may_ask():
                await self._question.ask(lambda: not self._held.is_good and self._may_ask())
            if not self._held.is_good:
                raise AuthenticationError(self._store, f"no credentials: {self._failure}")
        return self._held.credential

    async def after_refusal(self, refused: Credential) -> Sequence[Credential]:
        """Asks again, at once where this credential is refused for the first time. It may just have been replaced.

        Returns the credential at hand, and the one before, which another server may have refused: they need not change
        at the same time.
        """
        if refused is self._held.credential:
            if not self._is_refused(refused):
                self._refused.append(refused)
                await self._question.ask(lambda: refused is self._held.credential)
            elif self._may_ask():
                await self._question.ask(lambda: refused is self._held.credential and self._may_ask())
        return [each.credential for each in (self._held, self._previous) if each.is_good]

    def accepted(self, credential: Credential) -> None:
        is_held = credential is self._held.credential
        self._is_taken |= is_held
        if self._is_refused(self._held.credential) and not self._falls_back and not is_held:
            self._falls_back = True
            self._plan()
        if self._is_refused(credential):
            self._refused = deque((each for each in self._refused if not each.is_like(credential)), _REFUSED)
            if is_held:
                self._falls_back = False
                self._pause, self._pause_ends = 0.0, -math.inf
                self._plan()

    def close(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._question.close()
        self._lane.close()

    # -------------------------------------------------------------------------------------------------- inside

    async def _ask(self) -> None:
        """Asks once. Raises nothing: `_held` and `_failure` say what has come of it."""
        began = time.monotonic()
        asked = partial(_answer_of, self._call, self._limit)
        answer = None
        try:
            with anyio.move_on_after(self._limit):
                answer = await self._lane.run_in_thread("the callable of ?credentials=", asked)
        except WrongAnswerError as error:
            self._failed(f"the callable of ?credentials= is wrong: {error}")
        except AbandonedCallsError:
            self._failed(f"{_AT_ONCE} earlier calls of the callable of ?credentials= still hang")
        except Exception as error:
            # Its text may hold a token, or the answer of a metadata server, so only its class is shown.
            self._failed(f"the callable of ?credentials= raised {type(error).__name__}")
        else:
            if answer is not None:
                self._answered(answer, began)
            else:
                self._failed(f"the callable of ?credentials= did not answer within {self._limit:g} s")

    def _answered(self, answer: CredentialAnswer, began: float) -> None:
        # Counted from the question on: the answer was made some time after it.
        found = _Held(answer.credential, began + answer.seconds)
        if not found.is_good:
            self._failed("the callable of ?credentials= took longer to answer than its credential is good for")
            return
        self._failure = ""
        # Of two that are alike the same object stays: no connection has to log in again.
        if found.credential.is_like(self._held.credential):
            self._held = _Held(self._held.credential, found.expires)
        elif found.credential.is_like(self._previous.credential):
            self._hold(_Held(self._previous.credential, found.expires))
        else:
            self._hold(found)
        if self._is_refused(self._held.credential):
            self._rest()
        else:
            self._pause, self._pause_ends = 0.0, -math.inf
        self._plan()

    def _may_ask(self) -> bool:
        return time.monotonic() >= self._pause_ends

    def _is_refused(self, credential: Credential) -> bool:
        return any(each.is_like(credential) for each in self._refused)

    def _hold(self, held: _Held) -> None:
        # One that every server has refused does not take the place of one that some server may still want.
        if self._is_taken or not self._is_refused(self._held.credential):
            self._previous = self._held
        self._held = held
        self._is_taken = self._falls_back = False
        self._newest.credential = held.credential

    def _failed(self, why: str) -> None:
        is_first = not self._failure
        self._failure = why
        self._rest()
        if is_first:
            event(logging.WARNING, "credentials_failed", store=self._store, error=why)
        self._plan()

    def _rest(self) -> None:
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._pause_ends = time.monotonic() + self._pause

    def _plan(self) -> None:
        """Has the callable asked again in time, while there is a credential that serves. Without one, its users ask."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left = self._held.expires - time.monotonic()
        if self._is_closed or left <= 0 or (math.isinf(left) and not self._pause):
            return
        if self._is_refused(self._held.credential) and not self._falls_back:
            return
        seconds = self._pause or max(left - min(_AHEAD * left, _LONGEST_AHEAD), _FIRST_PAUSE)
        self._timer = asyncio.get_running_loop().call_later(min(seconds, _LONGEST_TIMER), self._question.begin)


def _answer_of(call: Callable[[], Any], seconds: float) -> CredentialAnswer:
    """Calls, in a thread. What the call returns may be awaited: that is done here too, on an event loop of its own."""
    answer = call()
    if inspect.isawaitable(answer):
        answer = asyncio.run(_awaited(answer, seconds))
    return CredentialAnswer.of(answer)


async def _awaited(answer: Awaitable[Any], seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        return await answer
