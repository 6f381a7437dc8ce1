"""What `import lmcache_connect` gives: these names, and no driver."""

from __future__ import annotations

import asyncio
import builtins
import copy
import inspect
import pickle  # noqa: TID251  # of our own exceptions, as a process pool does it
import pkgutil
import subprocess
import sys
from typing import Any, Final

import pytest

import lmcache_connect
from lmcache_connect import errors
from lmcache_connect.internal_api_server import errors as api_errors

HEAVY: Final = (
    "fastapi",
    "hiredis",
    "numpy",
    "redis",
    "rich",
    "torch",
    "typer",
    "uvicorn",
    "uvloop",
    "pytest",
    "hypothesis",
)

EXCEPTIONS: Final[dict[str, type[errors.LMCacheConnectError]]] = {
    name: kind
    for module in (errors, api_errors)
    for name, kind in vars(module).items()
    if inspect.isclass(kind) and issubclass(kind, errors.LMCacheConnectError) and kind.__module__ == module.__name__
}


def test_the_public_names_are_few_sorted_and_named_once() -> None:
    names = lmcache_connect.__all__
    assert 30 <= len(names) <= 44
    assert names == sorted(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", lmcache_connect.__all__)
def test_a_public_name_can_be_imported_and_is_documented(name: str) -> None:
    found = getattr(lmcache_connect, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert found.__doc__
        assert found.__module__.startswith("lmcache_connect.")


def test_every_public_object_of_the_package_is_in_its_list() -> None:
    modules = {name for name, found in vars(lmcache_connect).items() if inspect.ismodule(found)}
    public = {name for name in vars(lmcache_connect) if not name.startswith("_")}
    assert public - modules - {"annotations"} == set(lmcache_connect.__all__) - {"__version__"}


def test_no_public_object_has_the_name_of_a_submodule() -> None:
    submodules = {module.name for module in pkgutil.iter_modules(lmcache_connect.__path__)}
    assert {"memory", "manager", "url"} <= submodules
    assert not submodules & set(lmcache_connect.__all__)
    for name in submodules & set(vars(lmcache_connect)):
        assert inspect.ismodule(getattr(lmcache_connect, name))


def test_a_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from lmcache_connect import *", names)
    assert set(names) - {"__builtins__"} == set(lmcache_connect.__all__)


def test_importing_the_package_imports_no_driver_and_starts_nothing() -> None:
    program = (
        "import sys, threading, lmcache_connect\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])\n"
        "print(threading.active_count())\n"
        "print(*sorted(name for name in sys.modules if name.startswith(('lmcache_connect_', 'lmcache_reference'))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split("\n") == ["", "1", "", ""]


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert lmcache_connect.__version__ == version("lmcache-connect")


# ----------------------------------------------------------------------------------------------- exceptions


def test_the_exceptions_that_people_catch_are_public_and_the_same() -> None:
    public = {name for name in lmcache_connect.__all__ if name.endswith("Error")}
    assert {"LMCacheConnectError", "StoreError", "CorruptRecordError"} <= public
    assert len(public) <= 12, "a handful; the rest is in lmcache_connect.errors"
    for name in public:
        assert getattr(lmcache_connect, name) is EXCEPTIONS[name]


BUILTINS: Final[dict[str, type[BaseException]]] = {
    "InvalidURLError": ValueError,
    "UnknownSchemeError": LookupError,
    "UnknownOptionError": ValueError,
    "InvalidOptionError": ValueError,
    "InvalidConfigError": ValueError,
    "InvalidKeyError": ValueError,
    "UnknownDtypeError": ValueError,
    "InvalidShapeError": ValueError,
    "InvalidArgumentError": ValueError,
    "APIModuleError": ImportError,
    "APIRegistrationError": ImportError,
    "AdapterLoadError": ImportError,
    "MissingExtraError": ImportError,
    "MissingEngineError": ImportError,
    "LMCacheInstalledError": RuntimeError,
    "DuplicateRouteError": ImportError,
    "DuplicateSchemeError": ValueError,
    "AmbiguousSchemeError": ValueError,
    "UnknownConnectorError": LookupError,
    "UnsupportedOperationError": NotImplementedError,
    "ConnectorContractError": TypeError,
    "PluginImportError": ImportError,
    "PluginClassMissingError": AttributeError,
    "PluginTypeError": TypeError,
    "PluginConstructionError": RuntimeError,
    "ReleasedObjectError": RuntimeError,
    "ForeignObjectError": ValueError,
    "ArenaExhaustedError": MemoryError,
    "AllocationTimeoutError": TimeoutError,
    "BackendClosedError": RuntimeError,
    "ChunkMissingError": LookupError,
    "CorruptRecordError": ValueError,
    "FrameError": ValueError,
    "ConnectorClosedError": RuntimeError,
    "SyncCallOnLoopError": RuntimeError,
    "LoopNotRunningError": RuntimeError,
    "SyncTimeoutError": TimeoutError,
    "ForkedProcessError": RuntimeError,
    "ServerBindError": OSError,
    "ServerStateError": RuntimeError,
    "StoreUnavailableError": ConnectionError,
    "OperationTimeoutError": TimeoutError,
    "CircuitOpenError": ConnectionError,
    "AbandonedCallsError": ConnectionError,
    "AuthenticationError": PermissionError,
    "CertificateError": ConnectionError,
    "TLSMismatchError": ConnectionError,
    "StoreLoadingError": ConnectionError,
    "StoreStalledError": ConnectionError,
    "WrongTypeError": TypeError,
    "StoreProtocolError": ConnectionError,
    "ValueTooLargeError": ValueError,
}
OURS_ALONE: Final = {
    "LMCacheConnectError", "PluginError", "StoreError", "StoreFullError", "ReadOnlyStoreError", "WrongNodeError",
    "StoreCommandError", "ConnectorFailureError", "HiddenError",
}  # fmt: skip
"""No builtin says what these mean."""


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_every_exception_derives_from_the_builtin_that_a_reader_expects(name: str) -> None:
    kind = EXCEPTIONS[name]
    assert issubclass(kind, errors.LMCacheConnectError)
    assert issubclass(kind, BUILTINS.get(name, errors.LMCacheConnectError))
    assert (name in BUILTINS) is (name not in OURS_ALONE)
    assert not issubclass(kind, asyncio.CancelledError)
    assert kind.__doc__


VALUES: Final[dict[str, Any]] = {
    "int": 7, "float": 1.5, "object": ("an", "object"), "Iterable[str]": ("b", "a"), "str | None": "extra"
}  # fmt: skip


def parameters(kind: type[errors.LMCacheConnectError]) -> dict[str, str]:
    """Name and annotation of what the class takes."""
    found = inspect.signature(kind.__init__).parameters
    return {name: str(found[name].annotation) for name in found if name not in {"self", "args", "kwargs"}}


def example(kind: type[errors.LMCacheConnectError]) -> errors.LMCacheConnectError:
    """An exception of the class, made as its own signature asks."""
    facts = {
        name: f"a {name}" if annotation == "str" else VALUES.get(annotation, False)
        for name, annotation in parameters(kind).items()
    }
    return kind(**facts)


EXAMPLES: Final = [example(kind) for kind in EXCEPTIONS.values()]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_exception_keeps_its_facts_across_processes(error: errors.LMCacheConnectError) -> None:
    error.add_note("a note")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert (str(twin), repr(twin), twin.args) == (str(error), repr(error), error.args)
        assert vars(twin) == vars(error)
        assert twin.__notes__ == ["a note"]
        if isinstance(error, ImportError):
            assert getattr(twin, "msg", None) == error.msg == str(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_exception_carries_its_facts_as_fields_and_in_its_message(error: errors.LMCacheConnectError) -> None:
    for name in parameters(type(error)):
        if name == "detail" and not hasattr(error, "detail"):
            continue  # an addition to the message alone
        assert hasattr(error, name), f"{name} is not a field"
        value = getattr(error, name)
        if isinstance(value, str) and name != "extra":
            assert value in str(error)
    assert "\n" not in str(error)


def test_an_exception_is_raised_and_caught_as_its_builtin() -> None:
    for error in EXAMPLES:
        builtin = BUILTINS.get(type(error).__name__, Exception)
        assert builtin.__name__ in vars(builtins)
        with pytest.raises(builtin):
            raise error
