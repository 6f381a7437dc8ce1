"""The backend inside SGLang as it is installed: its factory, its base class, and its own arithmetic of pages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final

import pytest

from lmcache_connect.testing import ValkeyServer

from .conftest import config_of, keys_of
from .installed import folder, installed_sglang, methods

torch: Any = pytest.importorskip("torch", reason="torch is not installed")
if folder() is None:
    pytest.skip("SGLang is not installed", allow_module_level=True)

pytestmark = [pytest.mark.torch, pytest.mark.sglang, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

PAGES: Final = 128

Create = Callable[..., Any]


class Pool:
    """A host pool on a tensor of the CPU. Its methods are SGLang's own."""

    device = "cpu"
    pin_memory = False
    dcp_size = 1
    kv_buffer: Any
    get_data_page: Any

    def __init__(self, layout: str, dtype: Any, page_size: int, pages: int) -> None:
        self.layout, self.dtype = layout, dtype
        self.page_size = self.logical_page_size = page_size
        self.page_num = pages
        self.size = page_size * pages
        self.layer_num, self.head_num, self.head_dim, self.kv_cache_dim = 4, 2, 8, 12

    def fill(self) -> None:
        generator = torch.Generator().manual_seed(7)
        whole = self.kv_buffer.view(torch.uint8)
        whole.copy_(torch.randint(0, 256, whole.shape, dtype=torch.uint8, generator=generator))

    def indices(self, pages: Any) -> Any:
        return torch.tensor([page * self.page_size + token for page in pages for token in range(self.page_size)])

    def bytes_of(self, page: int) -> bytes:
        """The page as SGLang itself flattens it, not by addresses."""
        flat = self.get_data_page(page * self.page_size)
        return bytes(flat.contiguous().view(torch.uint8).numpy().tobytes())


_METHODS: Final = (
    "get_page_buffer_meta",
    "get_data_page",
    "get_dummy_flat_data_page",
    "set_from_flat_data_page",
)


def mha(layout: str = "page_first", *, dtype: Any = torch.bfloat16, page_size: int = 16, pages: int = PAGES) -> Any:
    """SGLang's `MHATokenToKVPoolHost`."""
    theirs = methods("srt/mem_cache/pool_host/mha.py", "MHATokenToKVPoolHost", *_METHODS, torch=torch)
    pool = type("MHATokenToKVPoolHost", (Pool,), theirs)(layout, dtype, page_size, pages)
    tokens, layers, heads, width = pool.size, pool.layer_num, pool.head_num, pool.head_dim
    shapes = {
        "layer_first": (2, layers, tokens, heads, width),
        "page_first": (2, tokens, layers, heads, width),
        "page_first_direct": (2, pages, layers, page_size, heads, width),
        "page_head": (2, pages, heads, page_size, layers, width),
    }
    pool.kv_buffer = torch.zeros(shapes[layout], dtype=dtype)
    return pool


def mla(layout: str = "page_first", *, dtype: Any = torch.bfloat16, page_size: int = 16, pages: int = PAGES) -> Any:
    """SGLang's `MLATokenToKVPoolHost`: no heads."""
    theirs = methods(
        "srt/mem_cache/pool_host/mla.py", "MLATokenToKVPoolHost", *_METHODS, "_storage_page_index", torch=torch
    )
    pool = type("MLATokenToKVPoolHost", (Pool,), theirs)(layout, dtype, page_size, pages)
    del pool.head_num
    tokens, layers, width = pool.size, pool.layer_num, pool.kv_cache_dim
    shapes = {
        "layer_first": (layers, tokens, 1, width),
        "page_first": (tokens, layers, 1, width),
        "page_first_direct": (pages, layers, page_size, 1, width),
    }
    pool.kv_buffer = torch.zeros(shapes[layout], dtype=dtype)
    return pool


POOLS: Final = [
    *(pytest.param(mha, layout, id=f"mha-{layout}") for layout in ("page_first", "page_first_direct", "layer_first")),
    *(pytest.param(mla, layout, id=f"mla-{layout}") for layout in ("page_first", "page_first_direct", "layer_first")),
]


@pytest.fixture(scope="module")
def storage() -> Iterator[Any]:
    """SGLang's module of the storage interface."""
    with installed_sglang() as storage:
        yield storage


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def create(storage: Any, server: ValkeyServer) -> Iterator[Create]:
    """Has SGLang's factory make the backend, as its cache controller does."""
    from sglang.srt.mem_cache.storage import StorageBackendFactory

    made: list[Any] = []

    def create(pool: Any, **given: Any) -> Any:
        config = config_of(given.pop("url", server.url()), kind=storage.HiCacheStorageConfig, **given)
        backend = StorageBackendFactory.create_backend("dynamic", config, pool)
        made.append(backend)
        backend.register_mem_pool_host(pool)
        backend.on_host_pools_registered()
        return backend

    yield create
    for backend in made:
        backend.close()


def controller(backend: Any, pool: Any) -> Any:
    """SGLang's `HiCacheController`, as far as it loads and stores a batch."""
    names = ("_page_get_zero_copy", "_page_set_zero_copy", "_generic_page_get", "_generic_page_set")
    theirs = methods("srt/managers/cache_controller.py", "HiCacheController", *names, torch=torch, logger=logging)
    made = type("HiCacheController", (), theirs)()
    made.storage_backend, made.storage_host_pool, made.page_size = backend, pool, pool.page_size
    return made


OPERATION: Final = SimpleNamespace(request_id="r", is_terminated=lambda: False)


@pytest.mark.parametrize(("pool_of", "layout"), POOLS)
def test_128_pages_come_back_byte_by_byte_without_copies(create: Create, pool_of: Any, layout: str) -> None:
    pool, other = pool_of(layout), pool_of(layout)
    pool.fill()
    is_mla = pool_of is mla
    keys = keys_of(PAGES)
    writer = controller(create(pool, mla=is_mla), pool)
    reader = controller(create(other, mla=is_mla), other)
    places = list(reversed(range(PAGES)))

    assert writer._page_set_zero_copy(keys, pool.indices(range(PAGES))) is True
    assert reader.storage_backend.batch_exists(keys) == PAGES
    assert reader._page_get_zero_copy(OPERATION, keys, other.indices(places)) == PAGES

    assert [other.bytes_of(place) for place in places] == [pool.bytes_of(page) for page in range(PAGES)]


@pytest.mark.parametrize(("pool_of", "layout"), POOLS)
def test_128_pages_come_back_byte_by_byte_through_the_old_interface(create: Create, pool_of: Any, layout: str) -> None:
    pool, other = pool_of(layout), pool_of(layout)
    pool.fill()
    is_mla = pool_of is mla
    keys = keys_of(PAGES)
    writer = controller(create(pool, mla=is_mla, interface_v1=0), pool)
    reader = controller(create(other, mla=is_mla, interface_v1=0), other)

    assert writer._generic_page_set(keys, pool.indices(range(PAGES))) is True
    assert reader.storage_backend.batch_exists(keys) == PAGES
    assert reader._generic_page_get(OPERATION, keys, other.indices(range(PAGES))) == PAGES

    assert [other.bytes_of(page) for page in range(PAGES)] == [pool.bytes_of(page) for page in range(PAGES)]


def test_a_layout_of_heads_is_moved_without_copies(create: Create) -> None:
    pool, other = mha("page_head"), mha("page_head")
    pool.fill()
    keys = keys_of(PAGES)

    assert all(create(pool).batch_set_v1(keys, pool.indices(range(PAGES))))
    assert all(create(other).batch_get_v1(keys, other.indices(range(PAGES))))
    assert torch.equal(other.kv_buffer.view(torch.uint8), pool.kv_buffer.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.uint8, torch.float8_e4m3fn])
def test_pages_of_each_dtype_come_back(create: Create, dtype: Any) -> None:
    pool = mha(dtype=dtype)
    pool.fill()
    keys = keys_of(2)
    backend = create(pool, identity={"revision": "r1", "model": f"org/{dtype}"})

    assert backend.batch_set_v1(keys, pool.indices([0, 1])) == [True, True]
    assert backend.batch_get_v1(keys, pool.indices([5, 6])) == [True, True]
    assert [pool.bytes_of(page) for page in (5, 6)] == [pool.bytes_of(page) for page in (0, 1)]


def test_a_load_ends_at_the_first_hole_as_sglang_counts(create: Create) -> None:
    pool = mha()
    backend = create(pool)
    keys = keys_of(4)
    assert backend.batch_set_v1([keys[0], keys[1], keys[3]], pool.indices([0, 1, 3])) == [True] * 3

    assert backend.batch_get_v1(keys, pool.indices([4, 5, 6, 7])) == [True, True, False, True]
    assert controller(backend, pool)._page_get_zero_copy(OPERATION, keys, pool.indices([4, 5, 6, 7])) == 2


def test_the_look_up_of_several_pools_is_sglangs_own(create: Create, storage: Any) -> None:
    pool, state = mha(), mla(page_size=1)
    backend = create(pool)
    backend.register_mem_host_pool_v2(state, storage.PoolName.MAMBA)
    keys = keys_of(3)
    backend.batch_set_v1(keys, pool.indices(range(3)))
    transfer = storage.PoolTransfer(storage.PoolName.MAMBA, state.indices([1]), keys=[keys[1]])
    transfer.hit_policy = storage.PoolHitPolicy.TRAILING_PAGES

    assert storage.count_pool_hits(backend.batch_set_v2([transfer])) == {storage.PoolName.MAMBA: 1}
    found = backend.batch_exists_v2(keys, [transfer])

    assert isinstance(found, storage.PoolTransferResult)
    assert (found.kv_hit_pages, found.restorable_prefix_pages) == (2, [2])
    assert found.extra_pool_hit_pages == {storage.PoolName.KV: 3, storage.PoolName.MAMBA: 2}
    assert backend.batch_get_v2([transfer]) == {storage.PoolName.MAMBA: [True]}


def test_ranks_and_stages_have_pages_of_their_own_and_latent_attention_has_one_writer(
    create: Create, storage: Any
) -> None:
    pool, latent = mha(), mla()
    [key] = keys_of(1)
    assert create(pool, tp=(0, 2)).batch_set_v1([key], pool.indices([0])) == [True]
    assert create(pool, tp=(1, 2)).batch_exists([key]) == 0
    assert create(pool, tp=(0, 2), pp=(1, 2)).batch_exists([key]) == 0

    ranks = [create(latent, mla=True, tp=(rank, 2)) for rank in range(2)]
    for rank, backend in enumerate(ranks):
        config = config_of("redis://unused", kind=storage.HiCacheStorageConfig, mla=True, tp=(rank, 2))
        assert backend.batch_set_v1(keys_of(1), latent.indices([0])) == [config.is_storage_writer]


def test_every_method_of_sglangs_base_class_is_our_own_or_needs_no_store(storage: Any, create: Create) -> None:
    backend = create(mha())
    theirs = {name for name in vars(storage.HiCacheStorage) if not name.startswith("_")}

    inherited = {name for name in theirs if name not in vars(type(backend))}

    assert inherited == {"on_host_pools_registered"}


def test_a_killed_store_costs_answers_of_false_behind_sglangs_own_wrapper(
    create: Create, monkeypatch: pytest.MonkeyPatch, storage: Any
) -> None:
    monkeypatch.setenv("SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE", "0")
    pool = mha()
    keys = keys_of(2)
    with ValkeyServer() as server:
        backend = create(pool, url=server.url(), deadline=1.0)
        assert isinstance(backend, storage.HiCacheStorageFailureInjector)
        assert backend.batch_set_v1(keys, pool.indices([0, 1])) == [True, True]
        server.kill()

        assert backend.batch_get_v1(keys, pool.indices([2, 3])) == [False, False]
        assert backend.batch_set_v1(keys, pool.indices([0, 1])) == [False, False]
        assert backend.batch_exists(keys) == 0
        assert controller(backend, pool)._page_set_zero_copy(keys, pool.indices([0, 1])) is False


def test_a_wrong_value_is_told_through_sglangs_factory(create: Create) -> None:
    with pytest.raises(ValueError, match="deadlin"):
        create(mha(), deadlin=3)
