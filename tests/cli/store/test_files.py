"""`lmcache-connect get` and `put`: a chunk goes into a file, and comes from one."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ValkeyServer

from ..conftest import Ran
from .conftest import engine_key, raw

Invoke = Callable[..., Ran]
LARGE = engine_key("acme", "bb")


def test_a_chunk_goes_into_a_file_and_comes_back(url: str, tmp_path: Path, invoke: Invoke) -> None:
    file = tmp_path / "chunk"
    got = json.loads(invoke("get", url, LARGE, str(file), "--json").out)
    assert file.read_bytes() == b"b" * (5 << 20)
    assert got["bytes"] == 5 << 20
    assert [path.name for path in tmp_path.iterdir()] == ["chunk"]
    put = json.loads(invoke("put", url, "copy", str(file), "--json").out)
    assert put["xxh3"] == got["xxh3"]
    assert json.loads(invoke("inspect", url, "copy", "--json").out)["payload_xxh3"] == got["xxh3"]


def test_a_file_keeps_its_content_where_the_chunk_is_missing_or_damaged(
    url: str, server: ValkeyServer, tmp_path: Path, invoke: Invoke
) -> None:
    file = tmp_path / "chunk"
    file.write_bytes(b"before")
    ran = invoke("get", url, "no such key", str(file))
    assert ran.code == 1
    assert "there is no such key" in ran.err
    [name] = chunk_names("", [engine_key("acme", "aa")])
    with server.client() as client:
        record = raw(client, name)
        record[-20] ^= 1
        client.set(name, bytes(record))
    ran = invoke("get", url, engine_key("acme", "aa"), str(file), "--json")
    assert ran.code == 1
    assert "checksum" in json.loads(ran.out)["error"]["message"]
    assert file.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["chunk"]


def test_arrays_of_numpy_go_both_ways(url: str, tmp_path: Path, invoke: Invoke) -> None:
    array = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    np.save(tmp_path / "in.npy", array)
    assert invoke("put", url, "array", str(tmp_path / "in.npy")).code == 0
    shown = json.loads(invoke("inspect", url, "array", "--json").out)["chunk"]
    assert (shown["shapes"], shown["dtypes"]) == ([[2, 3, 4]], ["half"])
    assert invoke("get", url, "array", str(tmp_path / "out.npy"), "--npy").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), array)
    raw = tmp_path / "raw"
    assert invoke("get", url, "array", str(raw)).code == 0
    assert raw.read_bytes() == array.tobytes()


def test_a_dtype_that_numpy_lacks_is_written_as_numbers_of_its_size(url: str, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "raw").write_bytes(bytes(range(24)))
    command = ("put", url, "k", str(tmp_path / "raw"), "--shape", "3,4", "--dtype", "bfloat16", "--format", "KV_2LTD")
    assert invoke(*command).code == 0
    assert json.loads(invoke("inspect", url, "k", "--json").out)["chunk"]["format"] == "KV_2LTD"
    assert invoke("get", url, "k", str(tmp_path / "out.npy"), "--npy").code == 0
    found = np.load(tmp_path / "out.npy")
    assert (found.dtype, found.shape, found.tobytes()) == (np.uint16, (3, 4), bytes(range(24)))


def test_a_file_that_fits_no_chunk_is_refused_and_nothing_is_stored(url: str, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "raw").write_bytes(bytes(24))
    (tmp_path / "empty").write_bytes(b"")
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.zeros((2, 3))))
    for arguments, told in (
        (("raw", "--shape", "5,5"), "24 bytes"),
        (("raw", "--dtype", "no such"), "no such"),
        (("empty",), "is empty"),
        (("fortran.npy",), "Fortran"),
        (("raw", "--shape", "a"), "whole numbers"),
        (("no such file",), "No such file"),
    ):
        ran = invoke("put", url, "k", str(tmp_path / arguments[0]), *arguments[1:])
        assert ran.code == 2
        assert told in ran.err
    (tmp_path / "large").write_bytes(bytes(3 << 20))
    ran = invoke("put", url, "k", str(tmp_path / "large"), "--memory", "1MiB")
    assert ran.code == 2
    assert "--memory" in ran.err
    assert invoke("inspect", url, "k").code == 1


def test_stdin_and_stdout_are_files_as_well(url: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x00\xff from stdin")))
    assert invoke("put", url, "piped", "-").code == 0
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
    assert invoke("get", url, "piped", "-").code == 0
    assert out.getvalue() == b"\x00\xff from stdin"


def test_a_device_is_written_to_and_not_replaced(url: str, tmp_path: Path, invoke: Invoke) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make a device")
    assert invoke("get", url, LARGE, str(device)).code == 0
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_link_stays_and_its_file_has_the_chunk(url: str, tmp_path: Path, invoke: Invoke) -> None:
    link = tmp_path / "link"
    link.symlink_to("chunk")
    assert invoke("get", url, LARGE, str(link)).code == 0
    assert link.is_symlink()
    assert (tmp_path / "chunk").stat().st_size == 5 << 20


def test_a_chunk_goes_through_a_pipe_with_a_name(url: str, tmp_path: Path, invoke: Invoke) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"from a pipe",))
    writer.start()
    put = json.loads(invoke("put", url, "piped", str(pipe), "--json").out)
    writer.join()
    assert put["bytes"] == len(b"from a pipe")


@pytest.mark.parametrize("nested", ["[" * 150 + "]" * 150, "-" * 60_000 + "1"])
def test_a_header_of_numpy_that_is_nested_too_deeply_is_refused(
    nested: str, url: str, tmp_path: Path, invoke: Invoke
) -> None:
    file = tmp_path / "chunk.npy"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(nested).to_bytes(2, "little") + nested.encode() + b"data")
    ran = invoke("put", url, "nested", str(file))
    assert ran.code == 2
    assert "no header of numpy" in ran.err
