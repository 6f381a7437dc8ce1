"""Store URLs: parsed once into a frozen value, or refused with the reason."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Final, Literal

import pytest
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from lmcache_connect import InvalidURLError, RemoteURL
from lmcache_connect.errors import InvalidOptionError, UnknownOptionError
from lmcache_connect.url import HostPort, URLOptions


def hosts(*pairs: tuple[str, int | None]) -> tuple[HostPort, ...]:
    return tuple(HostPort(host=host, port=port) for host, port in pairs)


PARSED: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("redis://host", {"scheme": "redis", "hosts": hosts(("host", None))}),
    ("REDIS://Host:6379", {"scheme": "redis", "hosts": hosts(("Host", 6379))}),
    ("my-store+tls.v2://h:0", {"scheme": "my-store+tls.v2", "hosts": hosts(("h", 0))}),
    ("redis://h:65535/", {"hosts": hosts(("h", 65535)), "path": "/"}),
    ("redis://user@h", {"username": "user", "password": None}),
    ("redis://user:@h", {"username": "user", "password": ""}),
    ("redis://:secret@h", {"username": None, "password": "secret"}),
    ("redis://user:secret@h", {"username": "user", "password": "secret"}),
    ("redis://a%40b:p%2Fq%3Ar%40%25%20%C3%BC@h", {"username": "a@b", "password": "p/q:r@% ü"}),
    ("redis://u:a:b,[c]+;=&!@h", {"username": "u", "password": "a:b,[c]+;=&!"}),
    ("redis://u:modèle@h", {"password": "modèle"}),
    ("redis://u:%2541@h", {"password": "%41"}),  # decoded once
    ("redis://[::1]", {"hosts": hosts(("::1", None))}),
    ("redis://[2001:db8::1]:7000/3", {"hosts": hosts(("2001:db8::1", 7000)), "path": "/3"}),
    ("redis://[fe80::1%25eth0]:1", {"hosts": hosts(("fe80::1%eth0", 1))}),
    ("redis://[::ffff:127.0.0.1]", {"hosts": hosts(("::ffff:127.0.0.1", None))}),
    ("redis://a:1,b,[::1]:2", {"hosts": hosts(("a", 1), ("b", None), ("::1", 2))}),
    ("redis://u:p@a:1,b:2/0", {"hosts": hosts(("a", 1), ("b", 2)), "username": "u", "password": "p"}),
    ("redis://h%C3%BC", {"hosts": hosts(("hü", None))}),
    ("unix:///run/redis.sock", {"hosts": (), "path": "/run/redis.sock"}),
    ("unix:///run/my%20redis.sock?db=1", {"hosts": (), "path": "/run/my redis.sock", "query": {"db": "1"}}),
    ("unix://user:secret@/run/r.sock", {"hosts": (), "username": "user", "password": "secret"}),
    ("memory://", {"scheme": "memory", "hosts": (), "path": "", "query": {}}),
    ("s3://bucket/a/b%2Fc", {"path": "/a/b/c"}),
    ("redis://h?a=1&b=", {"query": {"a": "1", "b": ""}}),
    ("redis://h/0?a=x+y&b=%26%3D&c=a=b", {"query": {"a": "x y", "b": "&=", "c": "a=b"}}),
    ("redis://h?", {"query": {}}),
    ("plugin://name.instance", {"hosts": hosts(("name.instance", None))}),
    (
        "external://host:1/package.module/?connector_name=C",
        {"path": "/package.module/", "query": {"connector_name": "C"}},
    ),
)


@pytest.mark.parametrize(("text", "facts"), PARSED)
def test_a_url_is_parsed_into_its_parts(text: str, facts: dict[str, Any]) -> None:
    url = RemoteURL.parse(text)
    shown = {
        "scheme": url.scheme,
        "hosts": url.hosts,
        "username": url.username,
        "password": None if url.password is None else url.password.get_secret_value(),
        "path": url.path,
        "query": {name: value.get_secret_value() for name, value in url.query.items()},
    }
    assert {name: shown[name] for name in facts} == facts
    assert url.raw.get_secret_value() == text
    assert RemoteURL.parse(url) is url


def test_the_first_host_is_the_host() -> None:
    assert (RemoteURL.parse("redis://a:1,b:2").host, RemoteURL.parse("redis://a:1,b:2").port) == ("a", 1)
    assert (RemoteURL.parse("memory://").host, RemoteURL.parse("memory://").port) == ("", None)


def test_a_store_of_one_server_takes_one_host_and_has_a_default_port() -> None:
    assert RemoteURL.parse("redis://a").single_host(6379) == ("a", 6379)
    assert RemoteURL.parse("redis://a:0").single_host(6379) == ("a", 0)
    for text, count in (("redis://a,b", 2), ("memory://", 0)):
        with pytest.raises(InvalidURLError, match=f"{count} hosts; expected exactly one"):
            RemoteURL.parse(text).single_host(6379)


def test_a_store_of_several_servers_takes_all_hosts_and_has_a_default_port() -> None:
    url = RemoteURL.parse("redis-ring://user:secret@a,B:1,[::1]:2,[::1]?prefix=p")
    assert url.several_hosts(6379) == (("a", 6379), ("B", 1), ("::1", 2), ("::1", 6379))
    assert str(url) == "redis-ring://user:***@a,B:1,[::1]:2,[::1]?prefix=p"


@pytest.mark.parametrize(
    ("hosts", "reason"),
    [
        ("", "no host; expected at least one"),
        ("a,b:0", "the port of b is 0; expected a number from 1 to 65535"),
        ("a:1,b,a:1", "a:1 is given twice; expected it once"),
        ("a,b,A:6379", "A:6379 is given twice; expected it once"),
        ("[::1]:5,[::1]:5", r"[::1]:5 is given twice; expected it once"),
    ],
)
def test_a_list_of_hosts_that_names_no_server_or_one_twice_is_refused(hosts: str, reason: str) -> None:
    url = RemoteURL.parse(f"redis-ring://u:secret@{hosts}")
    with pytest.raises(InvalidURLError) as refused:
        url.several_hosts(6379)
    assert reason in str(refused.value)
    assert "secret" not in str(refused.value)


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the scheme is missing"),
        ("host:6379", "the scheme is missing"),
        ("redis:host", "the scheme is missing"),
        ("redis:/host", "the scheme is missing"),
        ("://host", "the scheme is missing"),
        ("1redis://host", "the scheme is missing"),
        ("réd://host", "the scheme is missing"),
        ("redis ://host", "' ' at position 5"),
        (" redis://host", "' ' at position 0"),
        ("redis://host\n", r"'\n' at position 12"),
        ("redis://ho\x00st", r"'\x00' at position 10"),
        ("redis://h\x7f", r"'\x7f' at position 9"),
        ("redis://host:", "'host:***' is not host[:port]"),
        ("redis://host:port", "'host:***' is not host[:port]"),
        ("redis://host:-1", "'host:***' is not host[:port]"),
        ("redis://host:65536", "'host:65536' is not host[:port]"),
        ("redis://host:٣", "'host:***' is not host[:port]"),
        ("redis://:6379", "':***' is not host[:port]"),
        ("redis://a,,b", "'' is not host[:port]"),
        ("redis://a,", "'' is not host[:port]"),
        ("redis://::1:6379", "':***' is not host[:port]"),
        ("redis://[::1", "is not host[:port]"),
        ("redis://[::1]x", "is not host[:port]"),
        ("redis://[::g]", "is not host[:port]"),
        ("redis://[1.2.3.4]", "'[1.2.3.4]' is not an IPv6 address"),
        ("redis://[:::1]", "'[:::1]' is not an IPv6 address"),
        ("redis://a%0Ab", "a host holds a space or a control character"),
        ("redis://" + ",".join(["h"] * 257), "257 hosts; expected at most 256"),
        ("redis://h#part", "'#' starts a fragment"),
        ("redis://h#", "'#' starts a fragment"),
        ("redis://h?novalue", "its query is not option=value"),
        ("redis://h?a=1&", "its query is not option=value"),
        ("redis://h?a=1&&b=2", "its query is not option=value"),
        ("redis://h?" + "&".join(f"o{n}=1" for n in range(257)), "its query is not option=value"),
        ("redis://h?a=1&a=2", "the option 'a' is given twice"),
        ("redis://h/%zz", "'%' is not followed by two hexadecimal digits"),
        ("redis://u%:p@h", "'%' is not followed by two hexadecimal digits"),
        ("redis://u:p%4@h", "'%' is not followed by two hexadecimal digits"),
        ("redis://u:p%FF@h", "percent-escapes are not UTF-8"),
        ("redis://u:p/q@h", "a raw '/', '?', '#' or '@' stands in the credentials"),
        ("redis://u:p?q@h", "a raw '/', '?', '#' or '@' stands in the credentials"),
        ("redis://u:p#q@h", "a raw '/', '?', '#' or '@' stands in the credentials"),
        ("redis://u:p@q@h", "a raw '/', '?', '#' or '@' stands in the credentials"),
        ("redis://h/a@b", "a raw '/', '?', '#' or '@' stands in the credentials"),
        ("redis://h?a=b@c", "a raw '/', '?', '#' or '@' stands in the credentials"),
        ("redis://" + "x" * 20_000, "20008 characters; expected at most 16384"),
    ],
)
def test_what_is_no_store_url_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidURLError) as caught:
        RemoteURL.parse(text)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 2000 + len(text) * (len(text) < 16_384)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [None, 5, b"redis://host", ["redis://host"]])
def test_something_that_is_no_string_is_refused_by_its_type(value: Any) -> None:
    with pytest.raises(InvalidURLError, match=f"'{type(value).__name__}': it is not a string"):
        RemoteURL.parse(value)


# --------------------------------------------------------------------------------------------- a frozen value


def test_a_url_is_frozen_through_and_through() -> None:
    url: Any = RemoteURL.parse("redis://u:p@a:1?db=1")
    with pytest.raises(ValidationError, match="frozen"):
        url.path = "/x"
    with pytest.raises(ValidationError, match="frozen"):
        url.hosts[0].port = 2
    with pytest.raises(TypeError):
        url.query["db"] = SecretStr("2")


def test_urls_are_equal_and_hash_by_their_parts() -> None:
    one, same, other = map(RemoteURL.parse, ("redis://u:p@a?db=1", "redis://u:p@a?db=1", "redis://u:q@a?db=1"))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert len({one, same, other}) == 2


def test_a_url_can_be_copied_and_made_by_hand() -> None:
    url = RemoteURL.parse("redis://u:p@a:1?db=1")
    for twin in (copy.copy(url), copy.deepcopy(url), url.model_copy(deep=True)):
        assert twin == url
    changed = url.model_copy(update={"path": "/1"})
    assert (changed.path, url.path) == ("/1", "")
    assert RemoteURL(scheme="memory") == RemoteURL(scheme="memory")
    assert str(RemoteURL(scheme="memory")) == "memory://"


# ------------------------------------------------------------------------------------------ for people and logs


@pytest.mark.parametrize(
    ("text", "shown", "label"),
    [
        ("redis://u:p@a:1,[::1]:2/0?db=1", "redis://u:***@a:1,[::1]:2/0?db=1", "redis://a:1,[::1]:2/0"),
        ("redis://:p@h", "redis://:***@h", "redis://h"),
        ("redis://u@h", "redis://u@h", "redis://h"),
        ("redis://a%40b%3A:p@h", "redis://a%40b%3A:***@h", "redis://h"),
        ("redis://h/a%0Ab%20c", "redis://h/a%0Ab%20c", "redis://h/a%0Ab%20c"),
        ("redis://h?x=%0D%0Ay", "redis://h?x=%0D%0Ay", "redis://h"),
        ("redis://h?x=%E2%80%A8y", "redis://h?x=%E2%80%A8y", "redis://h"),
        ("unix:///run/r.sock", "unix:///run/r.sock", "unix:///run/r.sock"),
    ],
)
def test_a_url_is_shown_in_one_line_without_its_password(text: str, shown: str, label: str) -> None:
    url = RemoteURL.parse(text)
    assert str(url) == url.redacted() == f"{url}" == shown
    assert repr(url) == f"RemoteURL({shown!r})"
    assert url.label() == label


def test_a_host_is_written_as_it_stands_in_a_url() -> None:
    assert str(HostPort(host="h")) == "h"
    assert str(HostPort(host="h", port=0)) == "h:0"
    assert str(HostPort(host="::1", port=1)) == "[::1]:1"
    assert str(RemoteURL.parse("redis://[fe80::1%25eth0]:1").hosts[0]) == "[fe80::1%25eth0]:1"


# -------------------------------------------------------------------------------------------------- options


class StoreOptions(URLOptions):
    db: Annotated[int, Field(ge=0, le=15)] = 0
    mode: Literal["fast", "safe"] = "safe"
    verify: bool = True
    ssl_password: SecretStr | None = None
    access_key: int = 0
    renamed: str = Field(default="", alias="other-name")

    @field_validator("ssl_password")
    @classmethod
    def strong(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 8:
            # What an adapter's author should not write, and may.
            raise ValueError(f"{value.get_secret_value()} is too short")
        return value

    @model_validator(mode="after")
    def consistent(self) -> StoreOptions:
        if self.mode == "fast" and self.db:
            raise ValueError("mode=fast has database 0 alone")
        return self


def test_options_are_typed_by_the_adapters_model() -> None:
    options = RemoteURL.parse("redis://h?db=3&verify=no&other-name=x&ssl_password=12345678").options(StoreOptions)
    assert (options.db, options.verify, options.renamed, options.mode) == (3, False, "x", "safe")
    assert options.ssl_password == SecretStr("12345678")
    with pytest.raises(ValidationError, match="frozen"):
        options.db = 1


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownOptionError) as caught:
        RemoteURL.parse("redis://u:hidden-one@h?bd=3").options(StoreOptions)
    error = caught.value
    assert error.option == "bd"
    assert error.known == ("access_key", "db", "mode", "other-name", "ssl_password", "verify")
    assert "unknown option 'bd'; expected one of access_key, db, mode, other-name, ssl_password, verify" in str(error)
    assert "hidden-one" not in str(error)


def test_an_option_is_known_by_its_alias_alone() -> None:
    with pytest.raises(UnknownOptionError, match="'renamed'"):
        RemoteURL.parse("redis://h?renamed=x").options(StoreOptions)


@pytest.mark.parametrize(
    ("query", "option", "value", "expected"),
    [
        ("db=three", "db", "three", "valid integer"),
        ("db=16", "db", "16", "less than or equal to 15"),
        ("db=", "db", "", "valid integer"),
        ("mode=slow", "mode", "slow", "'fast' or 'safe'"),
        ("verify=perhaps", "verify", "perhaps", "valid boolean"),
        ("mode=fast&db=1", "?", "", "do not go together; expected mode=fast has database 0 alone"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_named(query: str, option: str, value: str, expected: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        RemoteURL.parse(f"redis://h?{query}").options(StoreOptions)
    assert (caught.value.option, caught.value.value) == (option, value)
    assert expected in str(caught.value)
    assert f"redis://h?{query}" in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("access_key", "AKIA-hunter2"), ("ssl_password", "hunter2")])
def test_a_wrong_value_of_a_secret_option_is_named_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        RemoteURL.parse(f"redis://h?db=1&{name}={value}").options(StoreOptions)
    assert caught.value.option == name
    assert value not in str(caught.value) + repr(caught.value) + repr(vars(caught.value))
    assert f"db=1&{name}=***" in str(caught.value)
