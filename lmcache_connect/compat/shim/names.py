"""Which of LMCache's import names there are without LMCache, and where each is found."""

from __future__ import annotations

from typing import Final

ROOT: Final = "lmcache"

_SHIM: Final = "lmcache_connect.compat.shim"
_CORE: Final = "lmcache_connect"


def _all_of(module: str, *names: str) -> dict[str, str]:
    return {name: f"{module}:{name}" for name in names}


_CONNECTOR: Final = _all_of(f"{_SHIM}.connector", "NotAudit", "RemoteConnector")
_FUNCTIONS: Final = f"{_SHIM}.functions"
_REMOTE_METADATA: Final = _all_of(
    f"{_SHIM}.protocol",
    "RemoteMetadata",
    "get_remote_metadata_bytes",
    "init_remote_metadata_info",
    "pad_shape_to_4d",
    "strip_shape_padding",
)

NAMES: Final[dict[str, dict[str, str]]] = {
    ROOT: {"__version__": f"{_FUNCTIONS}:VERSION"},
    f"{ROOT}.logging": _all_of(_FUNCTIONS, "init_logger"),
    f"{ROOT}.config": {"LMCacheEngineMetadata": f"{_SHIM}.metadata:LMCacheMetadata"},
    f"{ROOT}.utils": {
        "CacheEngineKey": f"{_CORE}.keys:CacheEngineKey",
        "LayerCacheEngineKey": f"{_CORE}.keys:LayerCacheEngineKey",
        "parse_cache_key": f"{_CORE}.keys:parse_key",
        **_all_of(
            _FUNCTIONS,
            "VERSION",
            "_lmcache_nvtx_annotate",
            "cdiv",
            "get_size_bytes",
            "get_version",
            "lmcache_deprecate",
            "round_down",
            "round_up",
            "thread_safe",
        ),
        **_all_of(f"{_SHIM}.torch_tables", "STR_DTYPE_TO_TORCH_DTYPE", "TORCH_DTYPE_TO_STR_DTYPE"),
    },
    f"{ROOT}.integration": {},
    f"{ROOT}.integration.vllm": {},
    f"{ROOT}.integration.vllm.utils": _all_of(_FUNCTIONS, "get_size_bytes"),
    f"{ROOT}.v1": {},
    f"{ROOT}.v1.config": _all_of(f"{_SHIM}.config", "LMCacheEngineConfig"),
    f"{ROOT}.v1.metadata": _all_of(f"{_SHIM}.metadata", "LMCacheMetadata"),
    f"{ROOT}.v1.memory_management": {
        "MemoryFormat": f"{_CORE}.metadata:MemoryFormat",
        "MemoryObj": f"{_CORE}.memory:MemoryObj",
        **_all_of(f"{_SHIM}.memory", "BytesBufferMemoryObj", "MemoryObjMetadata", "TensorMemoryObj"),
        "MemoryAllocatorInterface": f"{_SHIM}.backend:LocalCPUBackend",
    },
    f"{ROOT}.v1.protocol": {
        **_REMOTE_METADATA,
        **_all_of(f"{_SHIM}.protocol", "ClientCommand", "ServerReturnCode"),
        **_all_of(f"{_SHIM}.torch_tables", "DTYPE_TO_INT", "INT_TO_DTYPE"),
    },
    # Where LMCache 0.5.7 has what only its in-process mode uses.
    f"{ROOT}.inprocess": {},
    f"{ROOT}.inprocess.v1": {},
    f"{ROOT}.inprocess.v1.protocol": _REMOTE_METADATA,
    f"{ROOT}.v1.storage_backend": {},
    f"{ROOT}.v1.storage_backend.local_cpu_backend": _all_of(f"{_SHIM}.backend", "LocalCPUBackend"),
    f"{ROOT}.v1.storage_backend.job_executor": {},
    f"{ROOT}.v1.storage_backend.job_executor.base_executor": _all_of(f"{_SHIM}.job_executor", "BaseJobExecutor"),
    f"{ROOT}.v1.storage_backend.job_executor.pq_executor": _all_of(
        f"{_SHIM}.job_executor", "AsyncPQExecutor", "AsyncPQThreadPoolExecutor", "BaseJobExecutor"
    ),
    f"{ROOT}.v1.storage_backend.connector": {
        **_CONNECTOR,
        **_all_of(
            f"{_SHIM}.adapter",
            "ConnectorAdapter",
            "ConnectorContext",
            "ConnectorManager",
            "CreateConnector",
            "ParsedRemoteURL",
            "extract_plugin_type",
            "parse_remote_url",
        ),
    },
    f"{ROOT}.v1.storage_backend.connector.base_connector": _CONNECTOR,
}
"""For each module of LMCache its names, each with the place that it is imported from on first use, as `module:name`."""
