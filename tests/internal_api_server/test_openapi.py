"""The OpenAPI document is true: whatever is sent, no 5xx and no answer that it does not describe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from unittest import SkipTest

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from lmcache_connect import ConnectorManager, LocalCPUBackend
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer
from lmcache_connect.testing import ValkeyServer

CHECKS: Final = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    negative_data_rejection,
)

CAREFULLY: Final = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    """The schema of a server that runs, on a manager with a real store."""
    with (
        ValkeyServer() as store,
        LocalCPUBackend(1 << 20) as backend,
        ConnectorManager(store.url(), None, backend) as manager,
    ):
        connector = manager.create_connector()
        manager.create_connector("memory://openapi")
        chunk = backend.allocate((64,), "uint8")
        assert chunk is not None
        with chunk:
            connector.sync.put("a", chunk)
            backend.submit_put_task("a", chunk)
        with InternalAPIServer(manager, APIServerConfig.load(thread=True)) as server:
            yield schemathesis.openapi.from_url(f"{server.address}/openapi.json")


def test_no_answer_is_a_failure_or_goes_against_the_document(api: Any) -> None:
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
        @CAREFULLY
        def valid(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, timeout=20)

        @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        @CAREFULLY
        def invalid(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, timeout=20)

        valid()
        try:
            invalid()
        except (Unsatisfiable, SkipTest):
            pass  # an operation that takes nothing can be sent nothing wrong
