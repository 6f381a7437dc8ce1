"""Routes are found by category, and whatever goes wrong with one module stays with that module."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi import APIRouter, FastAPI

import lmcache_connect.internal_api_server as package
from lmcache_connect.errors import InvalidArgumentError
from lmcache_connect.internal_api_server.api_registry import (
    CATEGORIES,
    APICategory,
    APIRegistry,
    RegisteredAPI,
    register_router,
    unregister_router,
)
from lmcache_connect.internal_api_server.errors import APIModuleError, APIRegistrationError, DuplicateRouteError

PACKAGE: Final = "lmcache_connect.internal_api_server"


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def paths(app: FastAPI) -> set[str]:
    return set(app.openapi()["paths"])


def sources(added: tuple[RegisteredAPI, ...]) -> list[str]:
    return [api.source.removeprefix(f"{PACKAGE}.") for api in added]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A second place for modules of the category `controller`, which is gone afterwards."""
    controller = importlib.import_module(f"{PACKAGE}.controller")
    monkeypatch.setattr(controller, "__path__", [*controller.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(f"{PACKAGE}.controller."):
            del sys.modules[name]


def write(folder: Path, name: str, route: str) -> None:
    (folder / f"{name}.py").write_text(
        "from fastapi import APIRouter\n"
        "router = APIRouter()\n"
        f"@router.get({route!r})\n"
        "async def answer() -> str:\n"
        "    return 'here'\n"
    )


def test_the_seeds_example_runs_as_written_with_this_packages_name() -> None:
    program = """
from fastapi import FastAPI
from lmcache_connect.internal_api_server.api_registry import APIRegistry

app = FastAPI()
registry = APIRegistry(app)

# Register all API categories
registry.register_all_apis()

# Or register only specific categories
registry.register_all_apis(categories=["common", "vllm"])
print(len(app.openapi()["paths"]))
"""
    done = run(program)
    assert done.stderr == ""
    assert int(done.stdout) > 15


def test_none_means_every_category_in_a_fixed_order() -> None:
    registry = APIRegistry(FastAPI())
    added = registry.register_all_apis(strict=True)
    assert sources(added) == [
        "common.config_api",
        "common.health_api",
        "common.log_levels_api",
        "common.metrics_api",
        "common.stacks_api",
        "common.status_api",
        "common.version_api",
        "vllm.cache_api",
        "vllm.connectors_api",
        "vllm.hot_cache_api",
        "vllm.lookup_api",
        "controller.key_stats_api",
        "controller.targets_api",
        "controller.workers_api",
    ]
    assert registry.registered == added
    assert added[6].routes == ("GET /version",)
    assert CATEGORIES == ("common", "vllm", "controller")


@pytest.mark.parametrize(
    ("category", "path"),
    [("common", "/version"), ("vllm", "/vllm/lookup"), ("controller", "/controller/workers")],
)
def test_a_category_brings_its_own_routes_and_no_others(category: APICategory, path: str) -> None:
    app = FastAPI()
    added = APIRegistry(app).register_all_apis([category])
    assert path in paths(app)
    assert {api.category for api in added} == {category}
    assert {"/version", "/vllm/lookup", "/controller/workers"} & paths(app) == {path}


def test_a_new_module_is_found_with_no_other_change(folder: Path) -> None:
    write(folder, "mine_api", "/mine")
    write(folder, "mine_helper", "/never")
    app = FastAPI()
    assert f"{PACKAGE}.controller.mine_api" in [api.source for api in APIRegistry(app).register_all_apis(strict=True)]
    assert "/mine" in paths(app)
    assert "/never" not in paths(app)


def test_registering_twice_adds_nothing_twice_even_by_another_registry() -> None:
    app = FastAPI()
    assert APIRegistry(app).register_all_apis(["common"])
    before = len(app.routes)
    assert APIRegistry(app).register_all_apis(["common"], strict=True) == ()
    assert sources(APIRegistry(app).register_all_apis()) == [
        "vllm.cache_api",
        "vllm.connectors_api",
        "vllm.hot_cache_api",
        "vllm.lookup_api",
        "controller.key_stats_api",
        "controller.targets_api",
        "controller.workers_api",
    ]
    first = len(app.routes)
    assert first > before
    assert APIRegistry(app).register_all_apis() == ()
    assert len(app.routes) == first


@pytest.mark.parametrize("categories", [["common", "vlm"], ["Common"], [""], "common", [None]])
def test_an_unknown_category_is_refused_by_name_and_nothing_is_added(categories: Any) -> None:
    app = FastAPI()
    before = len(app.routes)
    with pytest.raises(
        InvalidArgumentError, match="expected a list of some of 'common', 'vllm', 'controller'"
    ) as refused:
        APIRegistry(app).register_all_apis(categories)
    assert repr(categories if isinstance(categories, str) else categories[-1]) in str(refused.value)
    assert len(app.routes) == before


def test_no_category_adds_nothing() -> None:
    assert APIRegistry(FastAPI()).register_all_apis([]) == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import a_module_that_is_not_there", "importing it raised ModuleNotFoundError"),
        ("raise SystemExit(3)", "importing it raised SystemExit"),
        ("def broken(:", "importing it raised SyntaxError"),
        ("", "it has no `router`"),
        ("router = 3", "it has a `router` that is a int"),
    ],
)
def test_a_module_that_fails_takes_no_other_down_and_is_reported(
    folder: Path, text: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "broken_api.py").write_text(text)
    app = FastAPI()
    registry = APIRegistry(app)
    with caplog.at_level(logging.ERROR, logger="lmcache_connect"):
        added = registry.register_all_apis()
    assert sources(added)[-3:] == ["controller.key_stats_api", "controller.targets_api", "controller.workers_api"]
    (failure,) = registry.failures
    assert failure.module == f"{PACKAGE}.controller.broken_api"
    assert reason in failure.reason
    (record,) = caplog.records
    assert record.getMessage().startswith("api_module_failed")

    again = APIRegistry(FastAPI())
    with pytest.raises(APIRegistrationError, match="broken_api"):
        again.register_all_apis(strict=True)
    assert sources(again.registered)[-1] == "controller.workers_api"


def test_a_module_that_could_not_be_imported_is_tried_again(folder: Path) -> None:
    (folder / "broken_api.py").write_text("import a_module_that_is_not_there")
    registry = APIRegistry(FastAPI())
    registry.register_all_apis()
    write(folder, "broken_api", "/mended")
    assert sources(registry.register_all_apis()) == ["controller.broken_api"]
    assert registry.failures == ()


def test_a_path_that_is_taken_is_refused_with_both_modules_named(folder: Path) -> None:
    write(folder, "another_api", "/vllm/connectors/{which}")
    registry = APIRegistry(FastAPI())
    with pytest.raises(APIRegistrationError) as refused:
        registry.register_all_apis(strict=True)
    (failure,) = registry.failures
    assert isinstance(failure, DuplicateRouteError)
    assert failure.module == f"{PACKAGE}.controller.another_api"
    assert failure.registered == f"{PACKAGE}.vllm.connectors_api"
    assert failure.route == "GET /vllm/connectors/{which}"
    assert f"{PACKAGE}.vllm.connectors_api" in str(refused.value)


def test_a_path_of_the_application_itself_is_not_taken_over() -> None:
    app = FastAPI()

    @app.get("/version")
    async def mine() -> str:
        return "mine"

    registry = APIRegistry(app)
    registry.register_all_apis()
    (failure,) = registry.failures
    assert isinstance(failure, DuplicateRouteError)
    assert failure.registered == "the application itself"


def third_party() -> APIRouter:
    router = APIRouter()

    @router.get("/third-party")
    async def answer() -> str:
        return "third"

    return router


def test_a_router_that_is_registered_is_added_to_applications_from_then_on() -> None:
    router = third_party()
    register_router(router, category="vllm")
    register_router(router, category="vllm")
    try:
        app, other = FastAPI(), FastAPI()
        added = APIRegistry(app).register_all_apis(["vllm"])
        assert added[-1] == RegisteredAPI("vllm", __name__, ("GET /third-party",))
        APIRegistry(other).register_all_apis(["common"])
        assert "/third-party" in paths(app)
        assert "/third-party" not in paths(other)
        with pytest.raises(InvalidArgumentError, match="pass source= for a name of its own"):
            register_router(third_party())
    finally:
        assert unregister_router(router)
    assert not unregister_router(router)
    assert "/third-party" not in str(APIRegistry(FastAPI()).register_all_apis())


def test_a_router_can_be_added_to_one_application_alone() -> None:
    app = FastAPI()
    registry = APIRegistry(app)
    registry.register_all_apis()
    router = third_party()
    added = registry.register_router(router, source="mine")
    assert added == RegisteredAPI("common", "mine", ("GET /third-party",))
    assert registry.register_router(router) is added
    with pytest.raises(DuplicateRouteError, match=r"GET /third-party is taken already by mine"):
        registry.register_router(third_party(), source="another")
    with pytest.raises(InvalidArgumentError, match=r"expected a fastapi\.APIRouter"):
        registry.register_router("/third-party")  # type: ignore[arg-type]


def test_an_installed_package_adds_routes_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, "strange_routes", "/strange")
    (tmp_path / "worse_routes.py").write_text("raise RuntimeError('no')")
    information = tmp_path / "strange-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[lmcache_connect.apis]\nvllm.strange = strange_routes\nworse = worse_routes:router\n"
    )
    importlib.invalidate_caches()
    try:
        registry = APIRegistry(FastAPI())
        added = registry.register_all_apis(["vllm"], strict=True)
        assert added[-1] == RegisteredAPI("vllm", "strange_routes", ("GET /strange",))
        registry.register_all_apis()
        (failure,) = registry.failures
        assert failure.module == "worse_routes:router"
        assert isinstance(failure, APIModuleError)
    finally:
        for name in ("strange_routes", "worse_routes"):
            sys.modules.pop(name, None)
        shutil.rmtree(information)


def test_routes_of_an_application_without_a_manager_say_what_is_missing() -> None:
    program = """
import asyncio, httpx
from fastapi import FastAPI
from lmcache_connect.internal_api_server import APIRegistry
app = FastAPI()
APIRegistry(app).register_all_apis()
async def main():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
        print((await client.get("/version")).status_code)
        answer = await client.get("/vllm/connectors")
        print(answer.status_code, answer.json())
asyncio.run(main())
"""
    done = run(program)
    assert done.stdout.splitlines()[0] == "200", done.stderr
    assert done.stdout.splitlines()[1].startswith("503")
    assert "attach()" in done.stdout


def test_every_module_of_a_category_has_a_router() -> None:
    for category in CATEGORIES:
        folder = Path(package.__file__).parent / category
        for file in folder.glob("*_api.py"):
            module = importlib.import_module(f"{PACKAGE}.{category}.{file.stem}")
            assert isinstance(module.router, APIRouter)


def shadowing() -> APIRouter:
    router = APIRouter()

    @router.get("/{x:path}")
    async def everything(x: str) -> str:
        return x

    return router


def test_a_route_of_other_people_that_fits_every_path_hides_none_of_ours_whenever_ours_is_added() -> None:
    app = FastAPI()
    router = shadowing()
    register_router(router, source="theirs")
    try:
        registry = APIRegistry(app)
        registry.register_all_apis(["common"])
        registry.register_all_apis(["vllm", "controller"])
    finally:
        unregister_router(router)

    ours = ("/version", "/vllm/connectors", "/controller/workers")

    async def ask() -> list[Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://h") as client:
            return [
                (await client.get(path)).json()
                for path in ("/version", "/vllm/connectors", "/controller/workers", "/a/b")
            ]

    answers = asyncio.run(ask())
    assert answers[-1] == "a/b"
    assert not {path[1:] for path in ours} & {str(answer) for answer in answers}


def test_a_path_of_ours_is_refused_to_other_people_by_name_also_where_ours_is_not_served_yet() -> None:
    router = APIRouter()
    router.get("/vllm/connectors")(lambda: "theirs")
    app = FastAPI()
    registry = APIRegistry(app)
    register_router(router, source="theirs")
    try:
        registry.register_all_apis(["common"])
    finally:
        unregister_router(router)
    assert [str(failure) for failure in registry.failures if "theirs" in str(failure)]
    assert "connectors_api" in str(registry.failures[0])
    registry.register_all_apis()
    assert registry.failures == ()


@pytest.mark.parametrize("raised", ["GeneratorExit()", "asyncio.CancelledError()", "SystemExit(3)", "BaseException()"])
def test_a_module_that_raises_anything_at_import_stays_alone_with_it(folder: Path, raised: str) -> None:
    (folder / "bad_api.py").write_text(f"import asyncio\nraise {raised}\n")
    registry = APIRegistry(FastAPI())
    registry.register_all_apis()
    assert [failure for failure in registry.failures if "bad_api" in str(failure)]
    assert len(registry.registered) > 5
