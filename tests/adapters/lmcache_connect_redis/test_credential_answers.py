"""What a callable may return, and what is said of everything else."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lmcache_connect.known_secrets import clean
from lmcache_connect_redis.credentials.answer import CredentialAnswer, WrongAnswerError


class Text(str):
    """A text whose methods lie."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"a lie"


@pytest.mark.parametrize(
    ("answer", "user", "seconds"),
    [
        (("u", "a-password-1"), "u", math.inf),
        ((None, "a-password-1"), None, math.inf),
        (("u", "a-password-1", None), "u", math.inf),
        (("u", "a-password-1", 900), "u", 900),
        (("u", "a-password-1", 0.5), "u", 0.5),
        ((Text("u"), Text("a-password-1")), "u", math.inf),
    ],
)
def test_an_answer_is_a_user_a_password_and_perhaps_an_expiry(answer: Any, user: str | None, seconds: float) -> None:
    found = CredentialAnswer.of(answer)
    assert (found.credential.username, found.credential.secret, found.seconds) == (user, "a-password-1", seconds)
    assert type(found.credential.secret) is str


def test_an_expiry_may_be_a_time_of_day_with_a_time_zone() -> None:
    found = CredentialAnswer.of(("u", "p", datetime.now(UTC) + timedelta(minutes=15)))
    assert 890 < found.seconds <= 900


def test_a_password_that_was_returned_is_shown_nowhere_while_it_is_in_use() -> None:
    found = CredentialAnswer.of(("u", "t0ken/of-15-minutes"))
    assert clean("it said t0ken/of-15-minutes") == "it said ***"
    assert "t0ken" not in repr(found)
    del found
    assert clean("it said t0ken/of-15-minutes") == "it said t0ken/of-15-minutes"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "it returned a NoneType"),
        ("user:hunter2", "it returned a str"),
        (["u", "hunter2"], "it returned a list"),
        (("hunter2",), "it returned a tuple of 1"),
        (("u", "hunter2", 1, 2), "it returned a tuple of 4"),
        ((b"u", "hunter2"), "its user is a bytes"),
        (("", "hunter2"), "its user has 0 bytes"),
        (("u", None), "its password is a NoneType"),
        (("u", ""), "its password has 0 bytes"),
        (("u", "hunter2" * 10_000), "its password has 70000 bytes"),
        (("u", "hunter2\ud800"), "its password is not a valid text"),
        (("u", "hunter2", True), "its expiry is a bool"),
        (("u", "hunter2", "900"), "its expiry is a str"),
        (("u", "hunter2", math.nan), "ten years"),
        (("u", "hunter2", math.inf), "ten years"),
        (("u", "hunter2", 1_800_000_000), "ten years"),
        (("u", "hunter2", 10**400), "ten years"),
        (("u", "hunter2", 0), "has expired"),
        (("u", "hunter2", -(10**400)), "has expired"),
        (("u", "hunter2", datetime.now(UTC) - timedelta(seconds=1)), "has expired"),
        (("u", "hunter2", datetime.max.replace(tzinfo=UTC)), "ten years"),
        (("u", "hunter2", datetime(2030, 1, 1)), "without a time zone"),  # noqa: DTZ001  # that is what is refused
    ],
)
def test_any_other_answer_is_refused_in_words_that_do_not_show_it(answer: Any, says: str) -> None:
    with pytest.raises(WrongAnswerError, match=says) as caught:
        CredentialAnswer.of(answer)
    assert "hunter2" not in str(caught.value)
