"""The S3 servers for tests do what they say: real ones start, stop and come back, and the faulty one is faulty."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from lmcache_connect.testing import FaultyS3Server
from lmcache_connect.testing.servers.process import ServerNotRunningError
from lmcache_connect.testing.servers.s3 import BUCKET, MotoServer, RcloneServer, S3Server
from lmcache_connect.testing.servers.s3_faults import CutBody, Length, Refuse, Stall

from .conformance.raw_s3 import client_of


def test_rclone_keeps_objects_as_files_and_comes_back_with_them() -> None:
    with RcloneServer() as server:
        client = client_of(server)
        client.put_object(Bucket=BUCKET, Key="a/b", Body=b"content")
        assert server.file("a/b").read_bytes() == b"content"
        server.kill()
        with pytest.raises(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=1):
            pass
        server.restart()
        assert client.get_object(Bucket=BUCKET, Key="a/b")["Body"].read() == b"content"
        folder = server.file("a/b").parent
    assert not folder.exists()
    server.start()
    server.start()
    assert client.list_objects_v2(Bucket=BUCKET).get("Contents", []) == []
    server.stop()
    with pytest.raises(ServerNotRunningError):
        server.pause()


def test_a_paused_server_answers_when_it_goes_on() -> None:
    with RcloneServer() as server:
        server.pause()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=0.2)
        with pytest.raises(TimeoutError):
            connection.request("GET", "/")
            connection.getresponse()
        connection.close()
        server.resume()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        connection.request("GET", "/")
        assert connection.getresponse().status < 500
        connection.close()


def test_moto_has_a_bucket_and_answers_as_s3_does(moto_server: MotoServer) -> None:
    client = client_of(moto_server)
    assert BUCKET in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    with pytest.raises(ClientError, match="NoSuchKey"):
        client.get_object(Bucket=BUCKET, Key="nothing")


@pytest.fixture
def faulty() -> Iterator[FaultyS3Server]:
    with FaultyS3Server() as server:
        yield server


class _At(S3Server):
    """What botocore needs to know of the faulty server."""

    def __init__(self, server: FaultyS3Server) -> None:
        self._port = server.port


def test_the_faulty_server_is_an_s3_server_until_it_is_told_otherwise(faulty: FaultyS3Server) -> None:
    client = client_of(_At(faulty))
    client.put_object(Bucket=BUCKET, Key="a b", Body=b"0123456789")
    assert faulty.objects == {"a b": b"0123456789"}
    assert client.get_object(Bucket=BUCKET, Key="a b")["Body"].read() == b"0123456789"
    found = client.get_object(Bucket=BUCKET, Key="a b", Range="bytes=2-4")
    assert (found["Body"].read(), found["ContentRange"]) == (b"234", "bytes 2-4/10")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.get_object(Bucket=BUCKET, Key="a b", IfMatch='"another"')
    assert client.head_object(Bucket=BUCKET, Key="a b")["ContentLength"] == 10
    assert [item["Key"] for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]] == ["a b"]
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="m")["UploadId"]
    parts = []
    for number, body in ((1, b"one"), (2, b"two")):
        stored = client.upload_part(Bucket=BUCKET, Key="m", UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": stored["ETag"]})
    client.complete_multipart_upload(Bucket=BUCKET, Key="m", UploadId=upload, MultipartUpload={"Parts": parts})
    assert faulty.objects["m"] == b"onetwo"
    client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "a b"}, {"Key": "m"}]})
    assert faulty.objects == {}


def ask(server: FaultyS3Server, method: str = "GET", timeout: float = 5) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        connection.request(method, f"/{BUCKET}/k")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_planned_faults_come_in_order_and_only_as_often_as_they_are_planned(faulty: FaultyS3Server) -> None:
    faulty.objects["k"] = b"0123456789"
    faulty.plan("GET", Refuse(503, "SlowDown"), times=2)
    faulty.plan("GET", CutBody(4))
    faulty.plan("GET", Length("20"))
    assert [ask(faulty)[0] for _ in range(2)] == [503, 503]
    for said in (10, 20):
        with pytest.raises(http.client.IncompleteRead) as broken:
            ask(faulty)
        assert len(broken.value.partial) + (broken.value.expected or 0) == said
    assert ask(faulty) == (200, b"0123456789")
    assert len(faulty.asked("GET")) == 5


def test_a_stall_ends_with_the_server(faulty: FaultyS3Server) -> None:
    faulty.objects["k"] = b"0123456789"
    faulty.plan("GET", Stall(-1), times=None)
    with pytest.raises(TimeoutError):
        ask(faulty, timeout=0.1)
