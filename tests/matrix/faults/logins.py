"""Logins that fail, passwords that are rotated, certificates that do not verify."""

from __future__ import annotations

from ..cell import Operation
from ..places.redis_place import PASSWORD, RedisLikePlace, RedisPlace
from ..places.s3_place import S3Place
from .fault import Fault, Trial, in_thread

_OTHER = "another-password"


class WrongLogin(Fault):
    name = "wrong-login"
    title = "wrong password"
    text = "The server has another password than the client, and has ended its connections."
    family = "login"
    needs = "login"

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        await in_thread(_set_passwords, trial, _OTHER)

    async def end(self, trial: Trial) -> None:
        await in_thread(_set_passwords, trial, PASSWORD)


class RotatedLogin(Fault):
    name = "rotated-login"
    title = "rotated password"
    text = "The server has a new password and has ended its connections. The file of `?password_file=` has the new one."
    family = "login"
    needs = "login"

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        assert isinstance(trial.place, RedisLikePlace)
        trial.place.password_file.write_text(_OTHER)
        await in_thread(_set_passwords, trial, _OTHER)


class ExpiredKeys(Fault):
    name = "s3-expired"
    title = "expired access key"
    text = "The store calls the access key expired."
    family = "login"
    needs = "s3 login"
    way = "answers"

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        from lmcache_connect.testing.servers.s3 import ACCESS_KEY

        assert isinstance(trial.place, S3Place)
        trial.place.answers.expired.add(ACCESS_KEY)

    async def end(self, trial: Trial) -> None:
        assert isinstance(trial.place, S3Place)
        trial.place.answers.heal()


class BadCertificate(Fault):
    """The server shows another certificate from now on, and its connections have ended."""

    family = "login"
    needs = "certificate"
    way = "answers"

    def __init__(self, which: str, title: str, text: str) -> None:
        self.name = f"certificate-{which}"
        self.title = title
        self.text = text
        self._which = which

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        await in_thread(self._present, trial, self._which)

    async def end(self, trial: Trial) -> None:
        await in_thread(self._present, trial, "good")

    def _present(self, trial: Trial, which: str) -> None:
        assert isinstance(trial.place, RedisPlace)
        trial.place.present(which)
        for proxy in trial.place.answering:
            trial.place.heal(proxy)


def _set_passwords(trial: Trial, password: str) -> None:
    assert isinstance(trial.place, RedisLikePlace)
    for server in trial.place.servers:
        trial.place.set_password(server, password)


FAULTS: tuple[Fault, ...] = (
    WrongLogin(),
    RotatedLogin(),
    ExpiredKeys(),
    BadCertificate("expired", "certificate expired", "The server's certificate has expired."),
    BadCertificate("misnamed", "certificate for another name", "The server's certificate is for another host."),
    BadCertificate(
        "unknown", "certificate of an unknown CA", "An authority that the client does not know has issued it."
    ),
)
