"""The bucket and the place that an `s3://` URL names."""

from __future__ import annotations

import pytest

from lmcache_connect import ConnectorManager, InvalidURLError, RemoteURL
from lmcache_connect_s3.location import Location, locate
from lmcache_connect_s3.options import S3Options


def located(text: str, region: str | None = None) -> Location:
    url = RemoteURL.parse(text)
    return locate(url, url.options(S3Options)).in_region(region)


@pytest.mark.parametrize(
    ("url", "host", "port", "header", "base", "prefix", "region"),
    [
        ("s3://bkt", "bkt.s3.us-east-1.amazonaws.com", 443, None, "/", "", None),
        ("s3://bkt/a/b?region=eu-west-1", "bkt.s3.eu-west-1.amazonaws.com", 443, None, "/", "a/b", "eu-west-1"),
        ("s3://bkt.with.dots", "s3.us-east-1.amazonaws.com", 443, None, "/bkt.with.dots/", "", None),
        ("s3://bkt?addressing=path", "s3.us-east-1.amazonaws.com", 443, None, "/bkt/", "", None),
        ("s3://bkt.s3.eu-west-1.amazonaws.com/p", "bkt.s3.eu-west-1.amazonaws.com", 443, None, "/", "p", "eu-west-1"),
        ("s3://bkt.s3-eu-west-1.amazonaws.com", "bkt.s3-eu-west-1.amazonaws.com", 443, None, "/", "", "eu-west-1"),
        (
            "s3://bkt--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com",
            "bkt--usw2-az1--x-s3.s3express-usw2-az1.us-west-2.amazonaws.com", 443, None, "/", "", "us-west-2",
        ),
        ("s3://bkt?endpoint=http://h:9000&prefix=t", "h", 9000, "h:9000", "/bkt/", "t", None),
        ("s3://bkt?endpoint=http://h", "h", 80, "h", "/bkt/", "", None),
        ("s3://bkt?endpoint=https://h:443/base/", "h", 443, "h", "/base/bkt/", "", None),
        ("s3://bkt?endpoint=http://h:9000&addressing=virtual", "h", 9000, "bkt.h:9000", "/", "", None),
        ("s3://bkt?endpoint=http://[::1]:9000", "::1", 9000, "[::1]:9000", "/bkt/", "", None),
    ],
)  # fmt: skip
def test_a_url_says_where_the_bucket_is(
    url: str, host: str, port: int, header: str | None, base: str, prefix: str, region: str | None
) -> None:
    found = located(url)
    assert (found.host, found.port, found.base, found.prefix, found.region) == (host, port, base, prefix, region)
    assert found.host_header == (header or host)
    assert found.is_tls is (port == 443)
    assert found.is_express is ("s3express" in url)


def test_the_region_of_the_environment_is_used_where_the_url_names_none() -> None:
    assert located("s3://bkt", "ap-south-1").host == "bkt.s3.ap-south-1.amazonaws.com"
    assert located("s3://bkt?region=eu-west-1", "ap-south-1").region == "eu-west-1"
    assert located("s3://bkt.s3.eu-west-1.amazonaws.com", "ap-south-1").region == "eu-west-1"
    assert located("s3://bkt.with.dots", "ap-south-1").base == "/bkt.with.dots/"
    elsewhere = located("s3://bkt?endpoint=http://h:9000", "ap-south-1")
    assert (elsewhere.host, elsewhere.host_header, elsewhere.region) == ("h", "h:9000", "ap-south-1")


@pytest.mark.parametrize(
    "url",
    [
        "s3:///path",
        "s3://b",
        "s3://bkt:9000",
        "s3://user:hunter2@bkt",
        "s3://bkt/a/../b",
        "s3://bkt/a//b",
        "s3://bkt/a?prefix=b",
        "s3://bkt?prefix=../b",
        "s3://bkt?endpoint=ftp://h",
        "s3://bkt?endpoint=h:9000",
        "s3://bkt?endpoint=http://u:hunter2@h",
        "s3://bkt?endpoint=http://h/?x=1",
        "s3://bkt?endpoint=http://h:99999",
        "s3://bkt?endpoint=http://h%0d%0aX:%201",
        "s3://bkt?access_key=a",
        "s3://bkt?secret_key=hunter2",
        "s3://bkt?anonymous=true&access_key=a&secret_key=hunter2",
        "s3://bkt?storage_class=a%0d%0aX-Evil:%20yes",
        "s3://bkt?tags=%E2%82%AC",
        "s3://bkt?sse_kms_key_id=k",
        "s3://bkt?sse=rot13",
        "s3://bkt?range_size=1000",
        "s3://bkt?part_size=1000",
        "s3://bkt?addressing=sideways",
        "s3://bkt?no_such_option=1",
        "s3://bkt,other",
    ],
)
def test_a_url_that_cannot_be_is_refused_without_a_secret(url: str) -> None:
    with ConnectorManager() as manager, pytest.raises(InvalidURLError) as refused:
        manager.create_connector(url)
    assert "hunter2" not in str(refused.value)
