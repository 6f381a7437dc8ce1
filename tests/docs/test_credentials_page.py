"""The callables on the page of credentials, without the clouds."""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote

import pytest

from lmcache_connect_redis.credentials.answer import CredentialAnswer

from .test_docs import code_blocks

PAGE = "docs/credentials.md"


def module(name: str) -> types.ModuleType:
    """A module of the page, from its code as it stands there."""
    [program] = [block for block in code_blocks(PAGE) if block.startswith(f"# myapp/{name}.py\n")]
    made = types.ModuleType(name)
    exec(compile(program, f"{PAGE}:{name}", "exec"), vars(made))  # that is what is tested
    return made


def signature(secret: str, method: str, host: str, path: str, query: dict[str, str], payload: str) -> str:
    """The signature of a URL, by AWS's description of version 4 for query parameters."""
    date, region, service, last = query["X-Amz-Credential"].split("/")[1:]
    sorted_query = "&".join(f"{quote(name, safe='')}={quote(query[name], safe='')}" for name in sorted(query))
    canonical = f"{method}\n{path}\n{sorted_query}\nhost:{host}\n\nhost\n{payload}"
    scope = f"{date}/{region}/{service}/{last}"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, last, f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{scope}\n{hashed}"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


def test_the_signature_is_computed_here_as_in_the_published_example() -> None:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request",
        "X-Amz-Date": "20130524T000000Z",
        "X-Amz-Expires": "86400",
        "X-Amz-SignedHeaders": "host",
    }
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    found = signature(secret, "GET", "examplebucket.s3.amazonaws.com", "/test.txt", query, "UNSIGNED-PAYLOAD")
    assert found == "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"


@pytest.mark.parametrize("is_serverless", [False, True])
@pytest.mark.parametrize("session_token", [None, "a/session+token=="])
def test_the_token_for_elasticache_is_a_signed_url(
    is_serverless: bool, session_token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("botocore")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the/secret+key")
    if session_token is None:
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    else:
        monkeypatch.setenv("AWS_SESSION_TOKEN", session_token)
    made = module("elasticache")
    made.IS_SERVERLESS = is_serverless  # type: ignore[attr-defined]
    found = CredentialAnswer.of(made.token())
    assert (found.credential.username, found.seconds) == ("lmcache", 900)
    place, _, text = found.credential.secret.partition("?")
    assert place == "my-cache/"
    query = dict(parse_qsl(text, strict_parsing=True))
    signed = query.pop("X-Amz-Signature")
    assert signed == signature("the/secret+key", "GET", "my-cache", "/", query, hashlib.sha256(b"").hexdigest())
    assert query["Action"] == "connect"
    assert query["User"] == "lmcache"
    assert query["X-Amz-Expires"] == "900"
    assert query["X-Amz-Credential"].endswith("/eu-central-1/elasticache/aws4_request")
    assert query.get("X-Amz-Security-Token") == session_token
    assert query.get("ResourceType") == ("ServerlessCache" if is_serverless else None)


def test_the_token_for_elasticache_is_what_botocores_own_signer_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("botocore")
    from botocore.model import ServiceId
    from botocore.signers import RequestSigner

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the/secret+key")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    made = module("elasticache")
    session = made.session
    signer = RequestSigner(
        ServiceId("elasticache"),
        "eu-central-1",
        "elasticache",
        "v4",
        session.get_credentials(),
        session.get_component("event_emitter"),
    )
    asked = {"method": "GET", "url": "https://my-cache/?Action=connect&User=lmcache", "body": {}, "headers": {}}
    while True:  # once more where a second has passed in between
        _, token, seconds = made.token()
        url = signer.generate_presigned_url(
            {**asked, "context": {}}, operation_name="connect", expires_in=seconds, region_name="eu-central-1"
        )
        ours, theirs = parse_qs(token.partition("?")[2]), parse_qs(url.partition("?")[2])
        if ours["X-Amz-Date"] == theirs["X-Amz-Date"]:
            break
    assert ours == theirs


@contextmanager
def answering(answer: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """A metadata service on this machine. Yields its URL, and the paths and headers that it was asked with."""
    asked: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, dict(self.headers)))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/token", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_token_of_entra_is_asked_for_as_the_metadata_service_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    made = module("entra")
    with answering({"access_token": "a.token.of-entra", "expires_in": "3599", "token_type": "Bearer"}) as (url, asked):
        made.ENDPOINT = url  # type: ignore[attr-defined]
        found = CredentialAnswer.of(made.token())
    assert (found.credential.username, found.credential.secret) == (made.OBJECT_ID, "a.token.of-entra")
    assert found.seconds == 3599
    [(path, headers)] = asked
    query = dict(parse_qsl(path.partition("?")[2], strict_parsing=True))
    assert query == {"api-version": "2018-02-01", "resource": "https://redis.azure.com", "object_id": made.OBJECT_ID}
    assert headers["Metadata"] == "true"


def test_the_token_of_azures_package_has_its_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    class Credential:
        def get_token(self, scope: str) -> types.SimpleNamespace:
            assert scope == "https://redis.azure.com/.default"
            return types.SimpleNamespace(token="a.token", expires_on=int(time.time()) + 3600)

    package, identity = types.ModuleType("azure"), types.ModuleType("azure.identity")
    identity.DefaultAzureCredential = Credential  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "azure", package)
    monkeypatch.setitem(sys.modules, "azure.identity", identity)
    made = module("entra_anywhere")
    found = CredentialAnswer.of(made.token())
    assert (found.credential.username, found.credential.secret) == (made.OBJECT_ID, "a.token")
    assert 3590 < found.seconds <= 3600


def test_the_token_of_google_is_asked_for_as_the_metadata_service_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    made = module("memorystore")
    with answering({"access_token": "ya29.a-token", "expires_in": 3599, "token_type": "Bearer"}) as (url, asked):
        made.ENDPOINT = url  # type: ignore[attr-defined]
        found = CredentialAnswer.of(made.token())
    assert (found.credential.username, found.credential.secret, found.seconds) == (None, "ya29.a-token", 3599)
    assert [headers["Metadata-Flavor"] for _, headers in asked] == ["Google"]


def test_the_first_callable_of_the_page_returns_a_credential() -> None:
    found = CredentialAnswer.of(module("logins").redis())
    assert (found.credential.username, found.credential.secret, found.seconds) == ("a-user", "a-token", 900)
