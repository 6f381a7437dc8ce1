"""The signature of a request is the one that botocore makes."""

from __future__ import annotations

import datetime
import re
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcache_connect_s3.location import Location
from lmcache_connect_s3.signer import EMPTY, UNSIGNED, Signer

LOCATION = Location("b", "p", "eu-west-1", "store.example", 9000, False, "store.example", "/a%20b/b/")
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"  # of AWS's documentation
NAMES = st.text(max_size=40)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40)
HEADERS = st.dictionaries(
    st.sampled_from(["range", "if-match", "content-type", "content-md5", "x-amz-tagging", "x-amz-checksum-mode"]),
    VALUES,
)
QUERIES = st.dictionaries(NAMES.filter(bool), NAMES, max_size=3)


def fields(head: bytes) -> dict[str, str]:
    lines = head.decode("ascii").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}


def clock(now: datetime.datetime) -> AbstractContextManager[Any]:
    """Lets botocore sign at this time."""
    if hasattr(botocore.auth, "get_current_datetime"):
        return mock.patch("botocore.auth.get_current_datetime", return_value=now)
    older = mock.Mock(utcnow=mock.Mock(return_value=now))
    return mock.patch("botocore.auth.datetime", mock.Mock(datetime=older))


def by_botocore(head: bytes, token: str | None) -> str:
    """The Authorization that botocore makes for a request whose head is this one."""
    method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
    found = fields(head)
    payload = found["x-amz-content-sha256"]
    theirs = {"host", "user-agent", "content-length", "authorization", "x-amz-date", "x-amz-content-sha256"}
    others = {name: value for name, value in found.items() if name not in {*theirs, "x-amz-security-token"}}
    request = AWSRequest(method=method, url=f"http://{found['host']}{target}", headers=others)

    class Auth(S3SigV4Auth):
        def payload(self, request: Any) -> str:
            return payload

    now = datetime.datetime.strptime(found["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    with clock(now):
        Auth(Credentials("AKIDEXAMPLE", SECRET, token), "s3", "eu-west-1").add_auth(request)
    return str(request.headers["Authorization"])


@settings(deadline=None)  # the machine may be busy
@given(
    method=st.sampled_from(["GET", "PUT", "HEAD", "DELETE", "POST"]),
    name=NAMES,
    query=QUERIES,
    headers=HEADERS,
    payload=st.sampled_from([EMPTY, UNSIGNED]),
    token=st.sampled_from([None, "a-token/with+signs=="]),
)
def test_a_request_has_the_signature_that_botocore_makes(
    method: str, name: str, query: dict[str, str], headers: dict[str, str], payload: str, token: str | None
) -> None:
    signer = Signer(LOCATION, Credentials("AKIDEXAMPLE", SECRET, token).get_frozen_credentials())
    for _ in range(2):  # the key of the day is made once
        head = signer.head(method, name, query=query, headers=headers, payload=payload)
        assert fields(head)["authorization"] == by_botocore(head, token)


def test_the_token_of_a_session_has_a_header_of_its_own_and_is_signed() -> None:
    credentials = Credentials("AKIDEXAMPLE", SECRET, "a-token").get_frozen_credentials()
    found = fields(Signer(LOCATION, credentials, session=True).head("GET", "k"))
    assert found["x-amz-s3session-token"] == "a-token"
    assert "x-amz-security-token" not in found
    assert "x-amz-s3session-token" in str(re.search("SignedHeaders=([^,]*)", found["authorization"])[1])  # type: ignore[index]


@pytest.mark.parametrize("value", ["a\r\nx-other: b", "a\nb", "a\rb"])
def test_a_header_with_a_line_break_is_refused(value: str) -> None:
    signer = Signer(LOCATION, Credentials("AKIDEXAMPLE", SECRET).get_frozen_credentials())
    with pytest.raises(ValueError, match="line break"):
        signer.head("GET", "k", headers={"x-amz-tagging": value})
