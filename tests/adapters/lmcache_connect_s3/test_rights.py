"""Credentials that may only read, write and remove objects under a prefix suffice for all but listings."""

from __future__ import annotations

import http.client
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import botocore.session
import pytest
from botocore.config import Config

from lmcache_connect import AuthenticationError, ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.errors import StoreUnavailableError
from lmcache_connect.oversight import clear
from lmcache_connect.testing import FaultyS3Server
from lmcache_connect.testing.servers.s3 import ACCESS_KEY, SECRET_KEY, MotoServer
from lmcache_connect.testing.servers.s3_faults import Do, Refuse, Reply, Request

CONFIG: Final = ConnectorConfig.load(operation_timeout=5, retries=0)

DOCUMENTED: Final = Path(__file__).parents[3] / "docs" / "s3.md"


async def put(connector: ManagedConnector, *keys: str, nbytes: int = 1000) -> None:
    with connector.context.local_cpu_backend.allocate((nbytes,), "uint8") as chunk:  # type: ignore[union-attr]
        await connector.batched_put(keys, [chunk] * len(keys))


async def holds(connector: ManagedConnector, key: str) -> bool:
    found = await connector.get(key)
    if found is None:
        return False
    with found:
        return True


# ------------------------------------------------------------------------------------------------- a real server


def policies() -> list[Any]:
    """The statements of the policy in the documentation: for objects, and for the listing."""
    [found] = re.findall(r"```json\n(\{\"Version\".*?)```", DOCUMENTED.read_text(), re.DOTALL)
    policy = json.loads(found)
    assert len(policy["Statement"]) == 2
    return [policy["Version"], *policy["Statement"]]


class Tenants:
    """A moto whose users may do what the documented policy allows."""

    def __init__(self, server: MotoServer) -> None:
        self.server = server
        self._iam: Any = botocore.session.Session().create_client(
            "iam",
            region_name="us-east-1",
            endpoint_url=server.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(),
        )
        self.urls: dict[str, str] = {}
        version, objects, listing = policies()
        self._add("data", {"Version": version, "Statement": [objects]})
        self._add("all", {"Version": version, "Statement": [objects, listing]})
        connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
        connection.request("POST", "/moto-api/reset-auth", body="0")  # from now on, policies count
        connection.getresponse().read()
        connection.close()

    def _add(self, name: str, policy: object) -> None:
        self._iam.create_user(UserName=name)
        self._iam.put_user_policy(UserName=name, PolicyName="kv", PolicyDocument=json.dumps(policy))
        made = self._iam.create_access_key(UserName=name)["AccessKey"]
        self.urls[name] = self.server.url(
            "tenant-a", access_key=made["AccessKeyId"], secret_key=made["SecretAccessKey"]
        )


@pytest.fixture(scope="module")
def tenants() -> Iterator[Tenants]:
    with MotoServer() as server:
        yield Tenants(server)


@pytest.mark.asyncio
async def test_the_documented_rights_on_objects_suffice_for_the_data_path(
    tenants: Tenants, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(tenants.urls["data"], None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        assert await connector.ping() == 0
        assert not await connector.exists("k")
        assert not await holds(connector, "k")
        assert not await connector.remove("k")
        await put(connector, "k", "l", "m")
        assert await connector.exists("k")
        assert await holds(connector, "k")
        assert await connector.remove("k")
        assert await connector.batched_remove(["l", "m", "n"]) == [True, True, True]
        assert await connector.batched_exists(["k", "l", "m"]) == [False, False, False]
        with pytest.raises(AuthenticationError, match="AccessDenied"):
            await connector.list()


@pytest.mark.asyncio
async def test_the_documented_right_to_list_suffices_for_a_clearing(
    tenants: Tenants, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(tenants.urls["all"], None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, "k", "l")
        assert sorted(await connector.list()) == ["k", "l"]
        found = await clear(connector, "")
        assert (found.matched, found.removed, found.is_complete) == (2, 2, True)


@pytest.mark.asyncio
async def test_the_documented_rights_end_at_the_prefix(tenants: Tenants, local_cpu_backend: LocalCPUBackend) -> None:
    url = tenants.urls["data"].replace("/tenant-a?", "/tenant-b?")
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        with pytest.raises(AuthenticationError, match="AccessDenied"):
            await put(connector, "k")
        with pytest.raises(AuthenticationError, match="AccessDenied"):
            await connector.remove("k")


@pytest.mark.asyncio
async def test_a_wrong_secret_is_an_error_of_every_call_also_where_the_bucket_may_not_be_asked(
    tenants: Tenants, local_cpu_backend: LocalCPUBackend
) -> None:
    url = re.sub("secret_key=[^&]+", "secret_key=wrong", tenants.urls["data"])
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        for call in (connector.ping(), connector.exists("k"), connector.get("k"), connector.remove("k")):
            with pytest.raises(AuthenticationError, match="SignatureDoesNotMatch"):
                await call


# --------------------------------------------------------------------------- a store that denies what is missing


class DenyingServer(FaultyS3Server):
    """Answers as AWS does without the right to list the whole bucket: 403 for the bucket and for what is missing."""

    def __init__(self, *, may_list: bool) -> None:
        super().__init__()
        self.may_list = may_list
        self.forbidden: set[str] = set()
        for method in ("GET", "HEAD", "DELETE"):
            self.plan(method, Do(self._deny), times=None)

    def _deny(self, reply: Reply, request: Request) -> None:
        is_listing = "list-type" in request.query
        is_denied = not self.may_list if is_listing else not request.name or reply.status == 404
        if is_denied or (request.name in self.forbidden and request.method != "DELETE"):
            Refuse(403, "AccessDenied").edit(reply, request)

    @property
    def listings(self) -> int:
        """How many listings were asked for."""
        return sum("list-type" in request.query for request in self.requests)


@pytest.mark.parametrize("may_list", [True, False])
@pytest.mark.asyncio
async def test_an_object_that_is_missing_is_a_miss_where_it_is_denied(
    local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture, may_list: bool
) -> None:
    with DenyingServer(may_list=may_list) as server, caplog.at_level(logging.WARNING):
        async with ConnectorManager(server.url("p"), None, local_cpu_backend, CONFIG) as manager:
            connector = manager.create_connector()
            assert await connector.ping() == 0
            assert not await holds(connector, "k")
            assert not await connector.exists("k")
            assert not await connector.remove("k")
            await put(connector, "a", "b")
            assert await connector.batched_exists(["a", "k", "b", "l"]) == [True, False, True, False]
            found = await connector.batched_get(["k", "a", "l", "b"])
            assert [chunk is not None for chunk in found] == [False, True, False, True]
            for chunk in found:
                if chunk is not None:
                    chunk.ref_count_down()
            assert await connector.remove("a")
            assert not await connector.exists("a")
            assert connector.statistics()["get"].errors == {}
        assert server.listings == 1
        assert caplog.text.count("denied_objects_count_as_missing") == (0 if may_list else 1)


@pytest.mark.asyncio
async def test_an_object_that_is_there_and_denied_is_an_error(local_cpu_backend: LocalCPUBackend) -> None:
    with DenyingServer(may_list=True) as server:
        async with ConnectorManager(server.url("p"), None, local_cpu_backend, CONFIG) as manager:
            connector = manager.create_connector()
            await put(connector, "k")
            server.forbidden.add("p/k")
            for call in (connector.get("k"), connector.exists("k"), connector.batched_get(["k", "l"])):
                with pytest.raises(AuthenticationError, match="AccessDenied"):
                    await call


@pytest.mark.asyncio
async def test_a_store_that_is_lost_while_it_is_asked_what_is_missing_is_no_miss(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    with FaultyS3Server() as server:
        async with ConnectorManager(server.url("p", attempts=1), None, local_cpu_backend, CONFIG) as manager:
            connector = manager.create_connector()
            server.plan("GET", Refuse(403, "AccessDenied"))
            server.plan("GET", Refuse(503, "ServiceUnavailable"))
            with pytest.raises(StoreUnavailableError):
                await connector.get("k")
