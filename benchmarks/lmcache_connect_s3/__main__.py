"""This S3 connector, awscrt's `S3Client` (what LMCache uses), obstore and aiobotocore, interleaved, in one run.

    python -m benchmarks.lmcache_connect_s3 [--rounds 5] [--servers nginx,rclone] [--only connect,awscrt]
        [--output STEM]

Get and put of 32 x 4 MiB and 8 x 32 MiB with 4 and 16 requests in flight, against nginx with DAV on objects in memory,
which shows the clients' own limit, and against `rclone serve s3`. GB/s and CPU seconds per GB of this process, all its
threads, and of the asyncio clients the longest gap of the event loop. Every client receives into memory that it is
given, touched before, and what was received is compared with what was put. Ours verifies a checksum of every byte; the
others have theirs switched off where they can. `sockets` is a blocking loop of `recv_into` and `sendmsg` in threads.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector, MemoryObj
from lmcache_connect.memory import release_all
from lmcache_connect.testing.loop_watch import LoopWatch
from lmcache_connect.testing.servers.process import unused_port
from lmcache_connect.testing.servers.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, RcloneServer

WORK: Final = ((32, 4 << 20), (8, 32 << 20))
IN_FLIGHT: Final = (4, 16)
NAME: Final = "bench"


class Target:
    """A server: where it is."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self.endpoint = f"http://127.0.0.1:{port}"


@contextmanager
def nginx() -> Iterator[Target]:
    """nginx with DAV on a folder in memory, two workers."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    folder = Path(tempfile.mkdtemp(prefix="lmcc-nginx-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    (folder / "root" / BUCKET).mkdir(parents=True)
    port = unused_port()
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/error.log;
        {"user root;" if os.geteuid() == 0 else ""}
        events {{ worker_connections 512; }}
        http {{
            access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000; client_max_body_size 0;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/a; fastcgi_temp_path {folder}/b;
            uwsgi_temp_path {folder}/c; scgi_temp_path {folder}/d; client_body_buffer_size 1m; etag on;
            server {{
                listen 127.0.0.1:{port}; root {folder}/root;
                location / {{
                    dav_methods PUT DELETE; create_full_put_path on;
                    # Clients of S3 want an ETag of a put, which DAV has not.
                    if ($request_method = PUT) {{ add_header ETag '"0"' always; }}
                }}
            }}
        }}
        """
    )
    process = subprocess.Popen([binary, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "e")])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield Target("nginx", port)
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


@contextmanager
def rclone() -> Iterator[Target]:
    """`rclone serve s3` on a folder in memory."""
    with RcloneServer() as server:
        yield Target("rclone", server.port)


class Client(ABC):
    """One client with its own objects: `size` bytes each, `count` of them."""

    name: str
    is_asyncio = True

    @abstractmethod
    async def open(self, target: Target, payloads: list[bytes], in_flight: int, stack: AsyncExitStack) -> None:
        """Gets ready: connections may be opened, memory is touched."""

    @abstractmethod
    async def put(self) -> None:
        """Stores every object."""

    @abstractmethod
    async def get(self) -> None:
        """Gets every object into memory that was there before."""

    @abstractmethod
    def received(self) -> list[memoryview]:
        """What the last `get` received."""

    def release(self) -> None:  # noqa: B027  # the others keep their memory
        """Lets go of it."""


class Connect(Client):
    """This connector, checksums on."""

    name = "connect"

    def __init__(self, io: str = "auto") -> None:
        self._io = io
        self.name = "connect" if io == "auto" else f"connect io={io}"

    async def open(self, target: Target, payloads: list[bytes], in_flight: int, stack: AsyncExitStack) -> None:
        nbytes = sum(map(len, payloads))
        backend = stack.enter_context(LocalCPUBackend(3 * nbytes, prefault=True))
        url = (
            f"s3://{BUCKET}/{NAME}-{self._io}?endpoint={target.endpoint}&region=us-east-1&access_key={ACCESS_KEY}"
            f"&secret_key={SECRET_KEY}&pool_size={in_flight}&io={self._io}"
        )
        config = ConnectorConfig.load(operation_timeout=60)
        manager = await stack.enter_async_context(ConnectorManager(url, None, backend, config))
        self._connector: ManagedConnector = manager.create_connector()
        self._keys = [f"{len(payloads[0])}-{number}" for number in range(len(payloads))]
        self._objs: list[MemoryObj] = []
        for payload in payloads:
            obj = backend.allocate((len(payload),), "uint8")
            assert obj is not None
            obj.byte_array[:] = payload
            self._objs.append(obj)
        stack.callback(release_all, list(self._objs))
        self._got: list[MemoryObj] = []

    async def put(self) -> None:
        await self._connector.batched_put(self._keys, self._objs)

    async def get(self) -> None:
        self._got = [obj for obj in await self._connector.batched_get(self._keys) if obj is not None]

    def received(self) -> list[memoryview]:
        return [obj.byte_array for obj in self._got]

    def release(self) -> None:
        for obj in self._got:
            obj.ref_count_down()
        self._got = []


class Other(Client):
    """A client that stores the bare bytes, and receives into byte arrays."""

    async def open(self, target: Target, payloads: list[bytes], in_flight: int, stack: AsyncExitStack) -> None:
        self._payloads = payloads
        self._names = [f"{NAME}-{self.name}-{len(payloads[0])}-{number}" for number in range(len(payloads))]
        self._buffers = [bytearray(b"\1" * len(payload)) for payload in payloads]
        self._in_flight = in_flight
        if target.name == "nginx":
            await asyncio.to_thread(self._make_objects, target)
        await self._connect(target, stack)

    def _make_objects(self, target: Target) -> None:
        # nginx answers a first PUT with 201 and further ones with 204; awscrt takes 201 for a failure.
        connection = http.client.HTTPConnection("127.0.0.1", target.port)
        for name in self._names:
            connection.request("PUT", f"/{BUCKET}/{name}", b"x")
            connection.getresponse().read()
        connection.close()

    @abstractmethod
    async def _connect(self, target: Target, stack: AsyncExitStack) -> None: ...

    async def _each(self, call: Any) -> None:
        turns = asyncio.Semaphore(self._in_flight)

        async def one(number: int) -> None:
            async with turns:
                await call(number)

        await asyncio.gather(*(one(number) for number in range(len(self._names))))

    def received(self) -> list[memoryview]:
        return [memoryview(buffer) for buffer in self._buffers]


class Awscrt(Other):
    """As LMCache's S3 connector uses it: one request an object, copied by a callback; payloads not signed."""

    name = "awscrt"
    is_asyncio = False

    async def _connect(self, target: Target, stack: AsyncExitStack) -> None:
        from awscrt import auth, http, io, s3

        group = io.EventLoopGroup()
        bootstrap = io.ClientBootstrap(group, io.DefaultHostResolver(group))
        provider = auth.AwsCredentialsProvider.new_static(ACCESS_KEY, SECRET_KEY)
        signing = s3.create_default_s3_signing_config(region="us-east-1", credential_provider=provider)
        self._client = s3.S3Client(
            bootstrap=bootstrap,
            region="us-east-1",
            tls_mode=s3.S3RequestTlsMode.DISABLED,
            signing_config=signing,
            throughput_target_gbps=100.0,
            part_size=64 << 20,
            multipart_upload_threshold=1 << 30,
        )
        self._s3, self._http, self._io = s3, http, io
        self._host = f"127.0.0.1:{target.port}"

    def _request(self, number: int, method: str) -> Future[Any]:
        from io import BytesIO

        payload = self._payloads[number]
        headers = [("Host", self._host)]
        body = None
        if method == "PUT":
            headers += [("Content-Length", str(len(payload))), ("Content-Type", "application/octet-stream")]
            body = BytesIO(payload)
        request = self._http.HttpRequest(
            method, f"/{BUCKET}/{self._names[number]}", self._http.HttpHeaders(headers), body
        )
        buffer = memoryview(self._buffers[number])

        def on_body(chunk: bytes, offset: int, **_: Any) -> None:
            buffer[offset : offset + len(chunk)] = chunk

        kind = self._s3.S3RequestType
        made = self._client.make_request(
            type=kind.GET_OBJECT if method == "GET" else kind.PUT_OBJECT,
            request=request,
            on_body=on_body if method == "GET" else None,
        )
        finished: Future[Any] = made.finished_future
        return finished

    async def put(self) -> None:
        await self._each(lambda number: asyncio.wrap_future(self._request(number, "PUT")))

    async def get(self) -> None:
        await self._each(lambda number: asyncio.wrap_future(self._request(number, "GET")))


class Obstore(Other):
    """obstore, the Rust crate object_store: its bytes are copied into place."""

    name = "obstore"

    async def _connect(self, target: Target, stack: AsyncExitStack) -> None:
        from obstore.store import S3Store

        self._store = S3Store(
            BUCKET,
            endpoint=target.endpoint,
            region="us-east-1",
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            unsigned_payload=True,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    async def put(self) -> None:
        async def call(number: int) -> None:
            await self._store.put_async(self._names[number], self._payloads[number], use_multipart=False)

        await self._each(call)

    async def get(self) -> None:
        async def call(number: int) -> None:
            found = await self._store.get_async(self._names[number])
            self._buffers[number][:] = memoryview(await found.bytes_async())

        await self._each(call)


class Aiobotocore(Other):
    """aiobotocore: aiohttp under botocore; its bytes are copied into place."""

    name = "aiobotocore"

    async def _connect(self, target: Target, stack: AsyncExitStack) -> None:
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session

        config = AioConfig(
            max_pool_connections=self._in_flight,
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self._client = await stack.enter_async_context(
            get_session().create_client(
                "s3",
                region_name="us-east-1",
                endpoint_url=target.endpoint,
                aws_access_key_id=ACCESS_KEY,
                aws_secret_access_key=SECRET_KEY,
                config=config,
            )
        )

    async def put(self) -> None:
        async def call(number: int) -> None:
            await self._client.put_object(Bucket=BUCKET, Key=self._names[number], Body=self._payloads[number])

        await self._each(call)

    async def get(self) -> None:
        async def call(number: int) -> None:
            found = await self._client.get_object(Bucket=BUCKET, Key=self._names[number])
            async with found["Body"] as body:
                self._buffers[number][:] = await body.read()

        await self._each(call)


class Sockets(Other):
    """What the sockets give: blocking, in threads, nothing parsed and nothing checked. For nginx, which wants no
    signature."""

    name = "sockets"
    is_asyncio = False

    async def _connect(self, target: Target, stack: AsyncExitStack) -> None:
        self._target = target
        self._pool = stack.enter_context(ThreadPoolExecutor(self._in_flight))
        self._local = threading.local()

    def _sock(self) -> socket.socket:
        sock: socket.socket | None = getattr(self._local, "sock", None)
        if sock is None:
            sock = self._local.sock = socket.create_connection(("127.0.0.1", self._target.port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _head(self, sock: socket.socket, buffer: memoryview) -> int:
        """How much of the body came with the head."""
        found = b""
        while (end := found.find(b"\r\n\r\n")) < 0:
            found += sock.recv(512)
        rest = found[end + 4 :]
        buffer[: len(rest)] = rest
        return len(rest)

    def _get(self, number: int) -> None:
        sock, buffer = self._sock(), memoryview(self._buffers[number])
        sock.sendall(f"GET /{BUCKET}/{self._names[number]} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        at = self._head(sock, buffer)
        while at < len(buffer):
            at += sock.recv_into(buffer[at : at + (256 << 10)])

    def _put(self, number: int) -> None:
        sock, payload = self._sock(), memoryview(self._payloads[number])
        length = len(payload)
        head = f"PUT /{BUCKET}/{self._names[number]} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        sock.sendall(head.encode())
        sock.sendall(payload)
        self._head(sock, memoryview(bytearray(4096)))

    async def put(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, lambda: list(self._pool.map(self._put, self._range)))

    async def get(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, lambda: list(self._pool.map(self._get, self._range)))

    @property
    def _range(self) -> range:
        return range(len(self._names))


def clients(only: set[str], server: str) -> list[Client]:
    """Those that are installed and wanted."""
    every: list[Client] = [Connect(), Connect("loop"), Awscrt(), Obstore(), Aiobotocore()]
    if server == "nginx":
        every.append(Sockets())
    return [client for client in every if not only or client.name in only]


async def measure(target: Target, rounds: int, only: set[str], results: list[dict[str, Any]]) -> None:
    """All work against one server."""
    for count, size in WORK:
        payloads = [os.urandom(size) for _ in range(count)]
        for in_flight in IN_FLIGHT:
            async with AsyncExitStack() as stack:
                ready: list[Client] = []
                for client in clients(only, target.name):
                    try:
                        await client.open(target, payloads, in_flight, stack)
                        ready.append(client)
                    except ImportError as missing:
                        print(f"{client.name} is left out: {missing}; make bench-setup", file=sys.stderr)
                values: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
                for number in range(rounds + 1):
                    for client in ready:
                        for verb in ("put", "get"):
                            found = await one(client, verb, count * size)
                            if number:  # the first round warms up
                                values.setdefault((verb, client.name), []).append(found)
                        got = client.received()
                        same = len(got) == count and all(map(bytes.__eq__, map(bytes, got), payloads))
                        del got
                        client.release()
                        if not same:
                            raise SystemExit(f"{client.name} received other bytes than were put")
                for (verb, name), found_values in values.items():
                    rate, cpu, gap = (statistics.median(column) for column in zip(*found_values, strict=True))
                    entry = {
                        "server": target.name,
                        "work": f"{count} x {size >> 20} MiB",
                        "in_flight": in_flight,
                        "verb": verb,
                        "client": name,
                        "GB/s": rate,
                        "CPU s/GB": cpu,
                        "longest gap ms": gap * 1e3,
                        "rounds": found_values,
                    }
                    results.append(entry)
                    what = f"{target.name} {entry['work']} x{in_flight} {verb} {name}"
                    print(f"{what}: {rate:.2f} GB/s, {cpu:.2f} CPU s/GB", file=sys.stderr)


async def one(client: Client, verb: str, nbytes: int) -> tuple[float, float, float]:
    """GB/s, CPU seconds per GB, and the longest gap of the loop in seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    async with LoopWatch() as watch:
        await getattr(client, verb)()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return nbytes / 1e9 / wall, cpu / (nbytes / 1e9), watch.longest


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: for every kind of work, each client's figures."""
    names = list(dict.fromkeys(entry["client"] for entry in results))
    lines = [f"| GB/s (CPU s/GB) | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    rows: dict[str, dict[str, str]] = {}
    for entry in results:
        row = f"{entry['server']}, {entry['verb']} {entry['work']}, {entry['in_flight']} in flight"
        rows.setdefault(row, {})[entry["client"]] = f"{entry['GB/s']:.2f} ({entry['CPU s/GB']:.2f})"
    for row, cells in rows.items():
        lines.append(f"| {row} | {' | '.join(cells.get(name, '') for name in names)} |")
    gaps = {name: max(entry["longest gap ms"] for entry in results if entry["client"] == name) for name in names}
    told = ", ".join(f"{name} {gap:.1f} ms" for name, gap in gaps.items())
    lines += ["", f"Longest gap of the event loop, the largest median: {told}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs, prints, and writes `STEM.json` and `STEM.md`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lmcache_connect_s3",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--servers", default="nginx,rclone")
    parser.add_argument("--only", default="", help="names of clients, with commas between them")
    parser.add_argument("--output", type=Path, help="where to write the results, without an ending")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    only = set(filter(None, arguments.only.split(",")))
    for name, serve in (("nginx", nginx), ("rclone", rclone)):
        if name in arguments.servers.split(","):
            with serve() as target:
                asyncio.run(measure(target, arguments.rounds, only, results))
    text = table(results)
    print(text)
    if arguments.output is not None:
        about = {"python": platform.python_version(), "cpus": os.cpu_count(), "rounds": arguments.rounds}
        arguments.output.with_suffix(".json").write_text(json.dumps({"about": about, "results": results}, indent=1))
        arguments.output.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
