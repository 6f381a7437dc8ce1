"""Schemes and their adapters: found without being imported, loaded on first use, and refused by name."""

from __future__ import annotations

import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import pytest

from lmcache_connect import ConnectorAdapter, ConnectorContext, RemoteConnector, RemoteURL, register_adapter
from lmcache_connect.errors import (
    AdapterLoadError,
    AmbiguousSchemeError,
    ConnectorContractError,
    DuplicateSchemeError,
    UnknownSchemeError,
)
from lmcache_connect.manager import AdapterRegistry, AdapterTarget, default_registry
from lmcache_connect.manager.builtin import ADAPTERS

BUILT_IN: Final = {
    "audit",
    "audit+<scheme>",
    "blackhole",
    "external",
    "fault+<scheme>",
    "hot+<scheme>",
    "memory",
    "mock",
    "redis",
    "redis-cluster",
    "redis-ring",
    "redis-sentinel",
    "rediss",
    "rediss-cluster",
    "rediss-ring",
    "rediss-sentinel",
    "s3",
    "unix",
    "valkey",
    "valkey-cluster",
    "valkey-ring",
    "valkey-sentinel",
    "valkeys",
    "valkeys-cluster",
    "valkeys-ring",
    "valkeys-sentinel",
}


class MyAdapter(ConnectorAdapter):
    schema = "mystore://"

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        raise NotImplementedError


class OtherAdapter(MyAdapter):
    pass


class SeveralSchemes(MyAdapter):
    schema = "First://"
    schemes: ClassVar[tuple[str, ...]] = ("second", "first", "third")


def url(text: str) -> RemoteURL:
    return RemoteURL.parse(text)


@pytest.fixture
def registry() -> AdapterRegistry:
    return AdapterRegistry()


# ---------------------------------------------------------------------------------------------- register()


@pytest.mark.parametrize("adapter", [MyAdapter, MyAdapter()])
def test_an_adapter_is_registered_as_a_class_or_an_instance(registry: AdapterRegistry, adapter: Any) -> None:
    registry.register(adapter)
    found = registry.find(url("mystore://h"))
    assert isinstance(found, MyAdapter)
    assert registry.find(url("MYSTORE://other")) is found
    assert "mystore" in registry.schemes()
    assert registry.describe("mystore") == f"{__name__}.MyAdapter"


def test_an_adapter_answers_for_all_of_its_schemes(registry: AdapterRegistry) -> None:
    registry.register(SeveralSchemes)
    assert {"first", "second", "third"} <= set(registry.schemes())
    assert registry.find(url("second://h")) is registry.find(url("first://h"))
    assert SeveralSchemes().known_schemes() == ("first", "second", "third")


@pytest.mark.parametrize(
    "text", ["mystorex://h", "mystor://h", "my://h", "xmystore://h", "mystore+tls://h", "rediss2://h"]
)
def test_a_scheme_matches_exactly_or_not_at_all(registry: AdapterRegistry, text: str) -> None:
    registry.register(MyAdapter)
    assert not MyAdapter().can_parse(text)
    with pytest.raises(UnknownSchemeError):
        registry.find(url(text))


@pytest.mark.parametrize(
    ("text", "parses"),
    [("mystore://h", True), ("MyStore://h", True), ("mystore:h", False), ("mystore", False), ("", False)],
)
def test_an_adapter_parses_the_urls_of_its_scheme(text: str, parses: bool) -> None:
    assert MyAdapter().can_parse(text) is parses


def test_a_scheme_that_is_taken_is_refused_with_both_named(registry: AdapterRegistry) -> None:
    registry.register(MyAdapter)
    with pytest.raises(DuplicateSchemeError) as caught:
        registry.register(OtherAdapter)
    error = caught.value
    assert (error.scheme, error.registered, error.offered) == ("mystore", f"{__name__}.MyAdapter", "OtherAdapter")
    assert "replace=True" in str(error)
    assert type(registry.find(url("mystore://h"))) is MyAdapter


def test_a_scheme_is_taken_over_on_request(registry: AdapterRegistry) -> None:
    registry.register(MyAdapter)
    registry.register(OtherAdapter, replace=True)
    assert type(registry.find(url("mystore://h"))) is OtherAdapter


def test_of_several_schemes_none_is_registered_when_one_is_taken(registry: AdapterRegistry) -> None:
    class Third(MyAdapter):
        schema = "third://"

    registry.register(Third)
    with pytest.raises(DuplicateSchemeError, match="'third'"):
        registry.register(SeveralSchemes)
    assert not {"first", "second"} & set(registry.schemes())


def one_of(scheme: str) -> str:
    """The scheme, or one of a family's."""
    return scheme.replace("<scheme>", "memory")


@pytest.mark.parametrize("scheme", sorted(BUILT_IN))
def test_a_built_in_scheme_is_taken_as_well(registry: AdapterRegistry, scheme: str) -> None:
    adapter = MyAdapter(f"{scheme}://")
    with pytest.raises(DuplicateSchemeError, match=r"lmcache-connect\); MyAdapter was refused"):
        registry.register(adapter)
    registry.register(adapter, replace=True)
    assert registry.find(url(f"{one_of(scheme)}://h")) is adapter
    assert registry.unregister(scheme)
    assert registry.describe(scheme) != f"{__name__}.MyAdapter"


def test_what_was_registered_can_be_taken_back(registry: AdapterRegistry) -> None:
    assert not registry.unregister("mystore")
    registry.register(MyAdapter)
    assert registry.unregister("mystore")
    assert not registry.unregister("mystore")
    with pytest.raises(UnknownSchemeError):
        registry.find(url("mystore://h"))


def test_what_is_no_adapter_is_refused_by_name(registry: AdapterRegistry) -> None:
    class NeedsArguments(MyAdapter):
        def __init__(self, argument: str) -> None:
            super().__init__()

    class NamesNoScheme(MyAdapter):
        schema = ""

    bad: list[tuple[Any, str]] = [
        (NeedsArguments, "NeedsArguments.__init__ cannot be made without arguments"),
        (NamesNoScheme, "NamesNoScheme.schema names no scheme"),
        (ConnectorAdapter, "cannot be made without arguments"),
        (str, "str.adapter is not a ConnectorAdapter"),
        (object(), "object.adapter is not a ConnectorAdapter"),
        (None, "NoneType.adapter is not a ConnectorAdapter"),
    ]
    for adapter, reason in bad:
        with pytest.raises(ConnectorContractError) as caught:
            registry.register(adapter)
        assert reason in str(caught.value)
    assert set(registry.schemes()) == set(AdapterRegistry().schemes())


# --------------------------------------------------------------------------------------------------- look-up


def test_an_unknown_scheme_lists_the_known_ones_and_hides_the_password(registry: AdapterRegistry) -> None:
    registry.register(MyAdapter)
    with pytest.raises(UnknownSchemeError) as caught:
        registry.find(url("nosuch://user:hunter2@h"))
    error = caught.value
    assert error.scheme == "nosuch"
    assert {"mystore", *BUILT_IN} <= set(error.known)
    assert list(error.known) == sorted(error.known)
    assert "mystore" in str(error)
    assert "hunter2" not in str(error)


def test_a_miss_is_never_remembered(registry: AdapterRegistry) -> None:
    for _ in range(2):
        with pytest.raises(UnknownSchemeError):
            registry.find(url("mystore://h"))
    registry.register(MyAdapter)
    assert isinstance(registry.find(url("mystore://h")), MyAdapter)


def test_a_built_in_adapter_is_made_once_on_first_use(registry: AdapterRegistry) -> None:
    first = registry.find(url("memory://"))
    assert registry.find(url("memory://x")) is first
    assert first.can_parse("memory://")
    assert AdapterRegistry().find(url("memory://")) is not first


def test_looking_at_the_schemes_imports_nothing(
    registry: AdapterRegistry, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("some-store", "store = some_store:Adapter", some_store="raise AssertionError('imported')")
    monkeypatch.delitem(sys.modules, "lmcache_reference_connectors.memory", raising=False)
    assert {"store", *BUILT_IN} <= set(registry.schemes())
    assert registry.describe("store") == "some_store:Adapter (some-store)"
    assert registry.describe("memory") is not None
    assert registry.describe("nosuch") is None
    assert not {"some_store", "lmcache_reference_connectors.memory"} & set(sys.modules)


def test_a_registry_looks_into_its_parents_before_the_built_in_table() -> None:
    parent = AdapterRegistry()
    child = AdapterRegistry(parent)
    parent.register(MyAdapter)
    parent.register(MyAdapter("memory://"), replace=True)
    assert child.find(url("mystore://h")) is parent.find(url("mystore://h"))
    assert isinstance(child.find(url("memory://")), MyAdapter)
    assert "mystore" in child.schemes()
    with pytest.raises(DuplicateSchemeError):
        child.register(OtherAdapter)
    child.register(OtherAdapter, replace=True)
    assert type(child.find(url("mystore://h"))) is OtherAdapter
    assert type(parent.find(url("mystore://h"))) is MyAdapter
    assert child.unregister("mystore")
    assert type(child.find(url("mystore://h"))) is MyAdapter


def test_a_registry_lists_the_schemes_of_all_its_ancestors() -> None:
    oldest = AdapterRegistry()
    oldest.register(MyAdapter)
    youngest = AdapterRegistry(AdapterRegistry(oldest))
    assert type(youngest.find(url("mystore://h"))) is MyAdapter
    assert youngest.schemes() == oldest.schemes()
    assert "mystore" in youngest.schemes()


def test_the_default_registry_is_filled_by_register_adapter() -> None:
    register_adapter(MyAdapter)
    try:
        assert isinstance(AdapterRegistry(default_registry).find(url("mystore://h")), MyAdapter)
        with pytest.raises(DuplicateSchemeError):
            register_adapter(OtherAdapter)
        register_adapter(OtherAdapter, replace=True)
    finally:
        assert default_registry.unregister("mystore")


def test_threads_that_look_up_one_scheme_at_once_get_one_adapter(registry: AdapterRegistry) -> None:
    start = threading.Barrier(4)
    found: list[ConnectorAdapter] = []

    def look_up() -> None:
        start.wait()
        found.append(registry.find(url("memory://")))

    threads = [threading.Thread(target=look_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert len(found) == 4


# ------------------------------------------------------------------------------------ installed distributions

ADAPTER_MODULE: Final = """
    from lmcache_connect import ConnectorAdapter
    class Adapter(ConnectorAdapter):
        schema = "store://"
        def create_connector(self, context):
            raise NotImplementedError
"""


class Install(Protocol):
    def __call__(self, distribution: str, *entry_points: str, **modules: str) -> None:
        """Puts a distribution on the path: its entry points, and its modules by name and source."""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    before = set(sys.modules)

    def install(distribution: str, *entry_points: str, **modules: str) -> None:
        site = tmp_path / distribution
        info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join(["[lmcache_connect.adapters]", *entry_points, ""]))
        for name, source in modules.items():
            (site / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(site))

    yield install
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_an_installed_adapter_is_found_by_its_entry_point(registry: AdapterRegistry, install: Install) -> None:
    install("some-store", "store = some_store:Adapter", some_store=ADAPTER_MODULE)
    found = registry.find(url("store://h"))
    assert type(found).__module__ == "some_store"
    assert registry.find(url("store://h")) is found


def test_an_adapter_that_is_installed_while_the_process_runs_is_found(
    registry: AdapterRegistry, install: Install
) -> None:
    with pytest.raises(UnknownSchemeError):
        registry.find(url("store://h"))
    install("some-store", "store = some_store:Adapter", some_store=ADAPTER_MODULE)
    assert "store" in registry.schemes()
    assert registry.find(url("store://h")) is not None


def test_two_distributions_that_claim_one_scheme_are_refused_with_both_named(
    registry: AdapterRegistry, install: Install
) -> None:
    install("some-store", "store = some_store:Adapter", some_store=ADAPTER_MODULE)
    install("other-store", "store = other_store:Adapter", other_store=ADAPTER_MODULE)
    with pytest.raises(AmbiguousSchemeError) as caught:
        registry.find(url("store://h"))
    assert str(caught.value) == (
        "the scheme 'store' is claimed by other_store:Adapter (other-store) and some_store:Adapter (some-store): "
        "uninstall all but one, or choose one with register_adapter(<the adapter>, replace=True)"
    )
    registry.register(MyAdapter("store://"), replace=True)  # the operator has chosen
    assert isinstance(registry.find(url("store://h")), MyAdapter)


def test_of_three_claims_on_one_scheme_each_target_is_named_once(registry: AdapterRegistry, install: Install) -> None:
    install("a-store", "store = a_store:Adapter")
    install("a-store-again", "store = a_store:Adapter")
    install("b-store", "store = b_store:Adapter")
    with pytest.raises(AmbiguousSchemeError) as caught:
        registry.find(url("store://h"))
    assert caught.value.scheme == "store"
    assert caught.value.claims == ("a_store:Adapter (a-store, a-store-again)", "b_store:Adapter (b-store)")


def test_one_target_found_twice_is_one_adapter(registry: AdapterRegistry, install: Install) -> None:
    install("some-store", "store = some_store:Adapter", some_store=ADAPTER_MODULE)
    install("some-store-again", "store = some_store:Adapter")
    assert registry.schemes().count("store") == 1
    assert registry.find(url("store://h")) is not None


def test_an_installed_adapter_does_not_take_a_built_in_scheme(registry: AdapterRegistry, install: Install) -> None:
    install("some-store", "memory = some_store:Adapter", some_store="raise AssertionError('imported')")
    assert type(registry.find(url("memory://"))).__module__ == "lmcache_reference_connectors.memory"


@pytest.mark.parametrize(
    ("target", "source", "reason"),
    [
        ("broken_store:Adapter", "import no_such_driver", "No module named 'no_such_driver'"),
        ("broken_store:Adapter", "from sys import no_such_name", "cannot import name 'no_such_name'"),
        ("broken_store:Adapter", "x = 1", "has no attribute 'Adapter'"),
        ("broken_store", "x = 1", "has no attribute ''"),
        ("no_such_store:Adapter", "", "No module named 'no_such_store'"),
        ("broken_store:Adapter", "raise SystemExit('bye')", "importing it raised SystemExit('bye')"),
        ("broken_store:Adapter", "import sys; sys.exit(3)", "importing it raised SystemExit(3)"),
        ("broken_store:Adapter", "1 / 0", "importing it raised ZeroDivisionError"),
        ("broken_store:Adapter", "def", "importing it raised SyntaxError"),
        ("broken_store:Adapter", "Adapter = 5", "int.adapter is not a ConnectorAdapter"),
        ("broken_store:Adapter", "class Adapter: pass", "Adapter.adapter is not a ConnectorAdapter"),
        (
            "broken_store:Adapter",
            "from lmcache_connect import ConnectorAdapter as Adapter",
            "cannot be made without arguments",
        ),
    ],
)
def test_an_adapter_that_cannot_be_loaded_says_which_and_from_where(
    registry: AdapterRegistry, install: Install, target: str, source: str, reason: str
) -> None:
    install("broken-store", f"store = {target}", broken_store=source)
    for _ in range(2):  # and does not become "unknown" the second time
        with pytest.raises(AdapterLoadError) as caught:
            registry.find(url("store://h"))
        error = caught.value
        assert reason in str(error)
        assert f"the adapter for store:// ({target}, from the distribution broken-store) cannot be loaded" in str(error)
        assert (error.scheme, error.target, error.distribution, error.extra) == ("store", target, "broken-store", None)
        assert "pip install" not in str(error)
    assert "store" in registry.schemes()


def test_an_adapter_that_was_mended_loads(registry: AdapterRegistry, install: Install, tmp_path: Path) -> None:
    install("some-store", "store = some_store:Adapter", some_store="import no_such_driver")
    with pytest.raises(AdapterLoadError):
        registry.find(url("store://h"))
    (tmp_path / "some-store" / "some_store.py").write_text(textwrap.dedent(ADAPTER_MODULE) + "# another size\n")
    assert registry.find(url("store://h")) is not None


def test_a_keyboard_interrupt_while_loading_is_nobodys_error(registry: AdapterRegistry, install: Install) -> None:
    install("some-store", "store = some_store:Adapter", some_store="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        registry.find(url("store://h"))


def test_a_missing_driver_names_the_extra_that_brings_it(
    registry: AdapterRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in {"aiohttp", "lmcache_connect_s3"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(AdapterLoadError) as caught:
        registry.find(url("s3://b"))
    assert caught.value.extra == "s3"
    assert caught.value.distribution == "lmcache-connect"
    assert str(caught.value).endswith("install it with: pip install 'lmcache-connect[s3]'")
    assert isinstance(caught.value, ImportError)


def test_a_driver_whose_name_the_adapters_begins_with_is_a_driver(install: Install) -> None:
    install("some-store", driver_for_mine="import driver")
    with pytest.raises(AdapterLoadError) as caught:
        AdapterTarget("store", "driver_for_mine:Adapter", "some-store", "extra").load()
    assert caught.value.extra == "extra"


def test_an_extra_is_not_offered_for_a_module_of_our_own_that_is_missing() -> None:
    target = AdapterTarget("store", "no_such_package.adapter:Adapter", "lmcache-connect", "redis")
    with pytest.raises(AdapterLoadError) as caught:
        target.load()
    assert caught.value.extra is None


def test_every_built_in_target_exists() -> None:
    assert set(ADAPTERS) == BUILT_IN
    for scheme in BUILT_IN:
        adapter = AdapterRegistry().find(url(f"{one_of(scheme)}://h"))
        assert adapter.can_parse(f"{one_of(scheme)}://h")
