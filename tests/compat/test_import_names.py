"""`compat.install()`: LMCache's names come on request, give Connect's types, and never shadow LMCache."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmcache_connect
from lmcache_connect import ConnectorConfig, ConnectorManager, compat
from lmcache_connect.compat.import_names import has_real_lmcache
from lmcache_connect.compat.shim.names import NAMES
from lmcache_connect.dtypes import known_dtypes
from lmcache_connect.errors import LMCacheInstalledError, MissingExtraError

HAS_TORCH = importlib.util.find_spec("torch") is not None
NEED_TORCH = ("STR_DTYPE_TO_TORCH_DTYPE", "TORCH_DTYPE_TO_STR_DTYPE", "DTYPE_TO_INT", "INT_TO_DTYPE")


@pytest.fixture
def no_names() -> Iterator[None]:
    if has_real_lmcache():
        pytest.skip("LMCache itself is installed: its names are its own")
    compat.uninstall()
    yield
    compat.uninstall()


def test_nothing_is_there_unless_it_is_asked_for(no_names: None) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("lmcache")
    compat.install()
    assert importlib.import_module("lmcache.v1.config").LMCacheEngineConfig
    compat.uninstall()
    assert not compat.is_installed()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("lmcache.v1.config")


def test_installing_twice_is_installing_once_and_so_is_uninstalling(no_names: None) -> None:
    finders = len(sys.meta_path)
    compat.install()
    compat.install()
    assert len(sys.meta_path) == finders + 1
    compat.uninstall()
    compat.uninstall()
    assert len(sys.meta_path) == finders


def test_a_with_block_leaves_names_alone_that_were_there_before(no_names: None) -> None:
    with compat.installed():
        assert compat.is_installed()
    assert not compat.is_installed()
    compat.install()
    with compat.installed():
        pass
    assert compat.is_installed()


@pytest.mark.parametrize("module", NAMES)
def test_every_name_can_be_imported(names_in_its_place: None, module: str) -> None:
    found = importlib.import_module(module)
    for name in NAMES[module]:
        if HAS_TORCH or name not in NEED_TORCH:
            assert getattr(found, name) is not None
    assert set(NAMES[module]) == set(dir(found))


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed")
def test_only_torchs_own_tables_need_torch_and_say_so(names_in_its_place: None) -> None:
    utils = importlib.import_module("lmcache.utils")
    with pytest.raises(ImportError, match=r"pip install 'lmcache-connect\[torch\]'"):
        utils.STR_DTYPE_TO_TORCH_DTYPE  # noqa: B018


@pytest.mark.torch
def test_the_tables_of_torch_know_every_dtype_by_lmcaches_name(names_in_its_place: None) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    utils = importlib.import_module("lmcache.utils")
    assert set(utils.STR_DTYPE_TO_TORCH_DTYPE) == set(known_dtypes())
    assert utils.TORCH_DTYPE_TO_STR_DTYPE[torch.float16] == "half"


def test_the_names_give_connects_own_types(names_in_its_place: None) -> None:
    utils = importlib.import_module("lmcache.utils")
    memory = importlib.import_module("lmcache.v1.memory_management")
    assert utils.CacheEngineKey is lmcache_connect.CacheEngineKey
    assert utils.LayerCacheEngineKey is lmcache_connect.LayerCacheEngineKey
    assert memory.MemoryObj is lmcache_connect.MemoryObj
    assert memory.MemoryFormat is lmcache_connect.MemoryFormat


def test_what_lmcache_has_moved_is_one_class_at_both_places(names_in_its_place: None) -> None:
    before, now = (importlib.import_module(f"lmcache.{place}protocol") for place in ("v1.", "inprocess.v1."))
    assert now.__all__
    assert all(getattr(now, name) is getattr(before, name) for name in now.__all__)


def test_what_is_not_provided_is_named_with_what_to_do(names_in_its_place: None) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"no lmcache\.v1\.cache_engine; .* install LMCache itself"):
        importlib.import_module("lmcache.v1.cache_engine")
    with pytest.raises(AttributeError, match=r"no lmcache\.utils\.TTLCache; it has .*CacheEngineKey"):
        importlib.import_module("lmcache.utils").TTLCache  # noqa: B018


def test_a_setting_of_the_manager_asks_for_the_names_as_well(no_names: None) -> None:
    ConnectorManager(config=ConnectorConfig.load())
    assert not compat.is_installed()
    ConnectorManager(config=ConnectorConfig.load(lmcache_names=True))
    assert compat.is_installed()


def test_an_installed_lmcache_is_never_shadowed(no_names: None, tmp_path: Path) -> None:
    package = tmp_path / "lmcache"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    metadata = tmp_path / "lmcache-9.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lmcache\nVersion: 9.9\n")
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    try:
        with pytest.raises(LMCacheInstalledError, match=r"LMCache 9\.9 is installed.*leave out compat\.install") as no:
            compat.install()
        assert no.value.version == "9.9"
        with pytest.raises(LMCacheInstalledError):
            ConnectorManager(config=ConnectorConfig.load(lmcache_names=True))
        assert not compat.is_installed()
    finally:
        sys.path.remove(str(tmp_path))
        importlib.invalidate_caches()


def test_a_folder_that_happens_to_have_the_name_is_no_lmcache(no_names: None, tmp_path: Path) -> None:
    (tmp_path / "lmcache").mkdir()
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    try:
        compat.install()
        assert importlib.import_module("lmcache.utils").cdiv(5, 2) == 3
    finally:
        sys.path.remove(str(tmp_path))
        importlib.invalidate_caches()


def test_importing_the_package_imports_neither_torch_nor_lmcache_nor_their_names() -> None:
    program = (
        "import sys, lmcache_connect, lmcache_connect.compat as compat\n"
        "assert not {'torch', 'lmcache'} & set(sys.modules), 'imported'\n"
        "assert not compat.is_installed()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_page_lists_every_name() -> None:
    page = (Path(__file__).parents[2] / "docs/lmcache-connectors.md").read_text()
    rows = dict(re.findall(r"^\| `(lmcache[\w.]*)` \| (.*) \|$", page, flags=re.MULTILINE))
    listed = {module: set(re.findall(r"`(\w+)`", names)) for module, names in rows.items()}
    assert listed == {module: set(names) for module, names in NAMES.items() if names and module != "lmcache"}


def test_the_plug_in_for_inside_lmcache_says_what_is_missing() -> None:
    if has_real_lmcache():
        pytest.skip("LMCache is installed")
    with pytest.raises(MissingExtraError, match="running inside LMCache needs the package"):
        importlib.import_module("lmcache_connect.engines.lmcache.plugin")
