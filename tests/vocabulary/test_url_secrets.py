"""No text that is made from a URL, valid or not, contains a password."""

from __future__ import annotations

import inspect
import re
from typing import Final
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lmcache_connect import ConnectorManager, InvalidURLError, RemoteURL, errors
from lmcache_connect import url as module_under_test
from lmcache_connect.errors import UnknownSchemeError
from lmcache_connect.redaction import redact
from lmcache_connect.url import URLOptions

from .inputs import inputs

CANARY: Final = "hunter2canary"

WITH_AUTHORITY: Final = (
    "redis://user:{}@host:6379/0?db=1",
    "redis://:{}@host",
    "rediss://user:{}@[::1]:6379,second",
    "unix://user:{}@/run/redis.sock",
    "s3://user:{}@",
    # malformed from here on
    "user:{}@host:6379",
    ":{}@host",
    "//user:{}@host",
    "://user:{}@host",
    "redis:user:{}@host",
    "redis:/user:{}@host",
    "re dis://user:{}@host",
    "1redis://user:{}@host",
    "redis://user:{}@host:port",
    "redis://user:{}@host:99999/0",
    "redis://user:{}@ho[st",
    "redis://user:{}@[::1",
    "redis://user:{}@[1.2.3.4]",
    "redis://user:{}@a,,b",
    "redis://user:{}@host?x=1&x=2",
    "redis://user:{}@host?novalue",
    "redis://user:{}@host?a=1&",
    "redis://user:{}@host#part",
    "redis://user:{}@host/%zz",
    "redis://us%er:{}@host",
    "redis://user:%FF{}@host",
    "redis://user:{}@first@second",
    "redis://user@first:{}@second",
    "redis://user:{}@host/\n",
    "redis://user:{}@ho\x00st",
    "redis://user:{}@host://other",
    "redis://user:{}@host,password=x",
    "redis://user:{}@host&db=1",
    "redis://user:{}@ho=st",
    "user:{}@host://x",
    "redis://user:{}@" + "x" * 20_000,
)
WITHOUT_QUESTION_MARK: Final = (
    "redis://h:6379,password={},ssl=True",
    "redis://h,password={}",
    "redis://h&password={}",
    "redis://h:6379&db=1&secret={}",
    "redis://h;password={}",
    "redis://h/0,password={}",
    "s3://b/p&secret_key={}",
    "s3://b/p&region=x&session_token={}",
    "s3://b/p;session_token={}",
    "s3://b/p&{}",
)
"""A `?` is missing before the first option."""
WITHOUT_HOST: Final = ("redis://user:{}", "redis://:{}", "redis://host:6379,user:{}", "redis://user:{}/0?db=1")
IN_QUERY: Final = (
    "redis://host/0?password={}",
    "redis://host?db=1&PassWord={}&mode=x",
    "redis://host?auth_token={}",
    "redis://host?aws_secret_access_key={}",
    "redis://host?pa%73sword={}",
    "redis://host?db=1;password={}",
    "redis://host?password={}#part",
    "redis://host?password={}&novalue",
    "redis://host?password={}&password={}",
    "redis://user@host@other?password={}",
    "password={}",
    "?password={}",
    "redis://h?a=1,password={}",
    "redis://h?sig={}",
    "redis://h?x.sas={}",
    "redis://h?jwt={}",
    "redis://h?cookie={}",
    "redis://h?sessionid={}",
    "redis://h?source=redis%3A%2F%2Fu%3A{}%40other%2F0",
    "redis://h?source=redis%253A%252F%252Fu%253A{}%2540other",
    "redis://h?source=http%3A%2F%2Fh%3Ftoken%3D{}",
)
TEMPLATES: Final = WITH_AUTHORITY + WITHOUT_HOST + IN_QUERY + WITHOUT_QUESTION_MARK

# A password that stands in our own messages anyway is not hidden in them.
OWN_WORDS: Final = inspect.getsource(module_under_test) + inspect.getsource(errors)


class Options(URLOptions):
    db: int = 0


def every_text(text: str) -> list[str]:
    """The texts that a person or a log could see of a URL."""
    try:
        url = RemoteURL.parse(text)
    except InvalidURLError as error:
        seen = [str(error), repr(error), repr(vars(error)), repr(error.args), repr(error.__cause__)]
        return [*seen, redact(text), redact(redact(text))]
    seen = [str(url), repr(url), f"{url!r:>5}", url.redacted(), url.label(), redact(text), redact(str(url))]
    seen += [repr(url.model_dump()), repr(url.model_dump(mode="json")), url.model_dump_json(), repr(url.query)]
    seen += [repr(dict(url)), repr(list(url)), repr(url.__repr_args__())]
    try:
        url.options(Options)
    except InvalidURLError as error:
        seen += [str(error), repr(error), repr(vars(error))]
    try:
        url.single_host(1)
    except InvalidURLError as error:
        seen += [str(error), repr(error), repr(vars(error))]
    return seen


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_canary_is_seen_nowhere(template: str) -> None:
    for text in every_text(template.replace("{}", CANARY)):
        assert CANARY not in text


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "password",
    [
        "can@ary",
        "can/ary",
        "can?ary",
        "can#ary",
        "can:ary",
        "[canary]",
        "can[ary",
        "can,ary",
        "can;ary",
        "ca://ary",
        "can%ary",
    ],
)
def test_a_canary_with_a_raw_delimiter_in_it_is_seen_nowhere(template: str, password: str) -> None:
    for text in every_text(template.replace("{}", password)):
        assert password not in text


@pytest.mark.parametrize("password", ["hunter2@part", "hunter2/part", "hunter2?part", "hunter2#part", "hunter2[part"])
@pytest.mark.parametrize("template", ["redis://user:{}@host:6379/0", "user:{}@host", "redis://user:{}@host:port"])
def test_not_even_one_part_of_a_password_with_a_raw_delimiter_is_seen(template: str, password: str) -> None:
    for text in every_text(template.replace("{}", password)):
        assert "hunter2" not in text
        assert "part" not in text.replace("the scheme is missing", "")


@pytest.mark.parametrize("query", ["password=a&b=1", "a=1;password=b", "a=1%26password%3Db", "x-auth-token=b", "pwd=b"])
def test_a_secret_inside_an_options_value_is_hidden_as_well(query: str) -> None:
    url = RemoteURL.parse(f"redis://h?{query}")
    assert "=***" in str(url)
    assert re.search(r"=(a|b)\b", str(url)) is None


@pytest.mark.asyncio
async def test_a_manager_tells_of_an_unknown_scheme_without_the_password() -> None:
    manager = ConnectorManager()
    with pytest.raises(UnknownSchemeError) as caught:
        manager.create_connector(f"nosuch://user:{CANARY}@host?token={CANARY}")
    assert CANARY not in str(caught.value) + repr(caught.value) + repr(vars(caught.value))


# ----------------------------------------------------------------------------------------------- any password

passwords = st.text(
    st.sampled_from("@:/?#&;=[]%,+ \\'\".!$()~-_\n\t\x7f€é") | st.characters(exclude_categories=["Cs"]),
    min_size=6,
    max_size=24,
).filter(lambda text: "*" not in text)


def is_seen(secret: str, text: str) -> bool:
    return secret in text or repr(secret)[1:-1] in text


@given(st.sampled_from(WITH_AUTHORITY + WITHOUT_HOST), passwords)
@example("redis://user:{}@host", "[hunter2]")
@example("redis://user:{}@host", "a?hunter2&b")
@example("redis://user:{}", "hunter2/and/more")
@example("user:{}@host://x", "hunter2://hunter2")
@inputs(600)
def test_no_raw_password_is_seen_in_any_url(template: str, password: str) -> None:
    assume(password not in template.replace("{}", "\0"))
    assume(password not in OWN_WORDS)
    if template in WITHOUT_HOST:
        # `redis://user:6379/x` and `redis://user:x@host` are good URLs, with another meaning.
        assume(re.match(r"[0-9]{1,5}([/?#,]|$)", password) is None)
        assume("@" not in password)
    for text in every_text(template.replace("{}", password)):
        assert not is_seen(password, text)


@given(st.sampled_from(TEMPLATES), passwords)
@inputs(400)
def test_no_percent_encoded_password_is_seen_in_any_url(template: str, password: str) -> None:
    encoded = quote(password, safe="")
    assume(password not in template.replace("{}", "\0"))
    assume(encoded not in template.replace("{}", "\0"))
    assume(password not in OWN_WORDS)
    assume(encoded not in OWN_WORDS)
    if template in WITHOUT_HOST:
        assume(re.match(r"[0-9]{1,5}$", password) is None)
    for text in every_text(template.replace("{}", encoded)):
        assert not is_seen(password, text)
        assert not is_seen(encoded, text)


@given(passwords, passwords)
@inputs(200)
def test_a_percent_encoded_user_and_password_come_back_as_they_were(user: str, password: str) -> None:
    url = RemoteURL.parse(f"redis://{quote(user, safe='')}:{quote(password, safe='')}@host")
    assert url.username == user
    assert url.password is not None
    assert url.password.get_secret_value() == password


@given(st.text(max_size=80) | st.text("redis:/@?#&=;,[]% ***", max_size=40))
@inputs(500)
def test_redact_and_parse_are_total(text: str) -> None:
    assert isinstance(redact(text), str)
    assert redact(redact(text)) == redact(redact(redact(text)))
    try:
        url = RemoteURL.parse(text)
    except InvalidURLError:
        return
    assert len(str(url).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://h:6379/0?db=1", "redis://h:6379/0?db=1"),
        ("redis://u@h", "redis://u@h"),
        ("redis://u:p@h", "redis://u:***@h"),
        ("cannot reach 'redis://u:p@h/0'", "cannot reach 'redis://u:***@h/0'"),
        ("Invalid value: redis://u:p@h", "Invalid value: redis://u:***@h"),
        ("no URL: a plain message", "no URL: a plain message"),
        ("", ""),
    ],
)
def test_redact_leaves_the_rest_readable(text: str, shown: str) -> None:
    assert redact(text) == shown
