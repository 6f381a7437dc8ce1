"""The status page in a real browser: it loads, is alive, and shows an outage."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer
from lmcache_connect.internal_api_server.status_page import StatusPage
from lmcache_connect.testing import ValkeyServer

from .web_proxies import PREFIX, Nginx

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET: Final = [
    "--no-sandbox",  # as root, and for a page of our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TOKEN: Final = "0123456789-a-token"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.timeout(120),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Any]:
    """One browser for all tests here: it takes seconds to start."""
    async with playwright.async_playwright() as started:
        made = await started.chromium.launch(executable_path=CHROMIUM, headless=True, args=QUIET)
        yield made
        await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Any) -> AsyncIterator[Any]:
    """A page that fails the test on whatever its browser complains of, and that reaches this machine alone."""
    asked: list[str] = []
    complaints: list[str] = []

    def heard(message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:  # an outage is part of the tests
            complaints.append(message.text)

    made = await browser.new_page(viewport={"width": 1100, "height": 900})
    made.on("request", lambda request: asked.append(request.url))
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("console", heard)
    yield made
    await made.close()
    assert [url for url in asked if not url.startswith("http://127.0.0.1:")] == []
    assert complaints == []


@pytest.fixture
def store() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


async def move(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    """Puts a chunk and gets it, and one that is not there, until it is cancelled."""
    while True:
        chunk = backend.allocate((4 << 20,), "uint8")
        assert chunk is not None
        with chunk:
            await connector.put("a", chunk)
        for key in ("a", "b"):
            obj = await connector.get(key)
            if obj is not None:
                obj.ref_count_down()
        await asyncio.sleep(0.02)


def fact(page: Any, name: str) -> Any:
    """What the first store's card says under this name."""
    return page.locator(".store .facts div", has=page.get_by_text(name, exact=True)).locator("dd").first


@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_shows_a_store_lives_and_shows_an_outage_and_its_end(
    page: Any, store: ValkeyServer, local_cpu_backend: LocalCPUBackend, tmp_path: Path
) -> None:
    expect = playwright.expect
    config = ConnectorConfig.load(breaker_failures=2, breaker_reset=0.1, retries=0, operation_timeout=2)
    async with ConnectorManager(store.url(), None, local_cpu_backend, config) as manager:
        connector = manager.create_connector()
        async with InternalAPIServer(manager) as server:
            await page.goto(server.address)
            card = page.locator("[data-connector=redis-1]")
            await expect(card).to_have_attribute("data-health", "ok")
            await expect(page.locator("#overall")).to_have_text("all stores answer")
            await expect(card).to_contain_text(f"redis://127.0.0.1:{store.port}")
            await expect(fact(page, "hit rate, in all")).to_have_text("–")
            await expect(page.locator("#arena-text")).to_contain_text("of 256 MiB in use")

            moving = asyncio.create_task(move(connector, local_cpu_backend))
            await expect(fact(page, "hit rate, in all")).to_have_text("50.0 %", timeout=15_000)
            await expect(fact(page, "put")).not_to_have_text("0.0 MB/s", timeout=15_000)
            points = re.compile(r"(\S+ ){4}\S+")
            await expect(card.locator("polyline.get")).to_have_attribute("points", points, timeout=15_000)
            await page.screenshot(path=tmp_path / "alive.png", full_page=True)
            moving.cancel()
            await asyncio.wait((moving,))

            store.kill()
            await expect(card).to_have_attribute("data-health", "failing", timeout=15_000)
            await expect(page.locator("#overall")).to_have_text("1 failing of 1 store")
            await expect(card.locator(".detail")).to_contain_text("StoreUnavailableError")
            assert (await page.title()).startswith("(1 failing)")
            await page.screenshot(path=tmp_path / "outage.png", full_page=True)

            store.restart()
            await expect(card).to_have_attribute("data-health", "ok", timeout=15_000)
            await expect(card.locator(".detail")).to_have_count(0)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_shows_that_a_full_store_drops_puts_and_what_to_do(
    page: Any, local_cpu_backend: LocalCPUBackend, tmp_path: Path
) -> None:
    expect = playwright.expect
    config = ConnectorConfig.load(errors="miss", retries=0)
    with ValkeyServer(maxmemory="1mb", config={"maxmemory-policy": "noeviction"}) as store:
        async with ConnectorManager(store.url(), None, local_cpu_backend, config) as manager:
            connector = manager.create_connector()
            moving = asyncio.create_task(move(connector, local_cpu_backend))
            async with InternalAPIServer(manager) as server:
                await page.goto(server.address)
                card = page.locator("[data-connector=redis-1]")
                await expect(card).to_have_attribute("data-health", "degraded", timeout=15_000)
                await expect(page.locator("#overall")).to_have_text("1 degraded of 1 store")
                await expect(card.locator(".detail")).to_contain_text(re.compile(r"put: (\d+) of \1 failed since"))
                await expect(card.locator(".detail")).to_contain_text("Advice: the store's memory is full")
                assert (await page.title()).startswith("(1 degraded)")
                await page.screenshot(path=tmp_path / "degraded.png", full_page=True)
            moving.cancel()
            await asyncio.wait((moving,))


@pytest.mark.skipif(Nginx.path() is None, reason="nginx is not installed on this machine")
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("strips", [True, False])
async def test_the_page_finds_its_data_under_a_path_prefix(
    page: Any, local_cpu_backend: LocalCPUBackend, strips: bool
) -> None:
    async with ConnectorManager("memory://page", None, local_cpu_backend) as manager:
        manager.create_connector()
        config = APIServerConfig.load() if strips else APIServerConfig.load(root_path=PREFIX.rstrip("/"))
        async with InternalAPIServer(manager, config) as server:
            proxy = Nginx(int((server.address or "").rpartition(":")[2]), strips=strips)
            await anyio.to_thread.run_sync(proxy.start)
            try:
                await page.goto(f"http://{proxy.host}:{proxy.port}{PREFIX}")
                link = page.get_by_role("link", name="Metrics")
                await playwright.expect(link).to_have_attribute("href", f"{PREFIX}metrics")
                await playwright.expect(page.locator("[data-connector=memory-1]")).to_be_visible(timeout=15_000)
            finally:
                await anyio.to_thread.run_sync(proxy.stop)


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_fits_its_window(page: Any, local_cpu_backend: LocalCPUBackend, width: int) -> None:
    async with ConnectorManager(None, None, local_cpu_backend) as manager:
        manager.create_connector("memory://" + "a-long-name-" * 12)
        async with InternalAPIServer(manager) as server:
            await page.set_viewport_size({"width": width, "height": 800})
            await page.goto(server.address)
            await playwright.expect(page.locator("[data-connector=memory-1]")).to_be_visible()
            assert await page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_says_when_the_server_itself_is_gone(page: Any, local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager("memory://page", None, local_cpu_backend) as manager:
        manager.create_connector()
        async with InternalAPIServer(manager) as server:
            await page.goto(server.address)
            await playwright.expect(page.locator("#overall")).to_have_text("all stores answer")
        await playwright.expect(page.locator("#alarm")).to_contain_text("What is shown is old", timeout=15_000)
        await playwright.expect(page.locator("#overall")).to_have_text("not reached")
        await playwright.expect(page.locator("[data-connector=memory-1]")).to_be_visible()


@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_asks_for_the_token_where_reading_needs_it(
    page: Any, local_cpu_backend: LocalCPUBackend
) -> None:
    expect = playwright.expect
    async with ConnectorManager("memory://page", None, local_cpu_backend) as manager:
        manager.create_connector()
        async with InternalAPIServer(manager, APIServerConfig.load(token=TOKEN, protect="all")) as server:
            await page.goto(server.address)
            await expect(page.locator("#login")).to_be_visible()
            await page.fill("#token", "a-wrong-token-of-some-length")
            await page.click("#login button")
            await expect(page.locator("#alarm")).to_have_text("The token is wrong.", timeout=15_000)
            await page.fill("#token", TOKEN)
            await page.click("#login button")
            await expect(page.locator("[data-connector=memory-1]")).to_be_visible(timeout=15_000)
            await expect(page.locator("#login")).to_be_hidden()
            await expect(page.locator("#alarm")).to_be_hidden()


@pytest.mark.asyncio(loop_scope="module")
async def test_failing_stores_come_first_then_degraded_ones_and_idle_ones_are_small_and_last(
    page: Any, store: ValkeyServer, local_cpu_backend: LocalCPUBackend, tmp_path: Path
) -> None:
    expect = playwright.expect
    config = ConnectorConfig.load(errors="miss", retries=0)
    with ValkeyServer(maxmemory="1mb", config={"maxmemory-policy": "noeviction"}) as full:
        async with ConnectorManager(None, None, local_cpu_backend, config) as manager:
            manager.create_connector("memory://idle")
            busy = manager.create_connector(f"hot+{store.url()}?prefix=llama")
            dropping = manager.create_connector(full.url())
            manager.create_connector("redis://127.0.0.1:1")
            moving = [asyncio.create_task(move(each, local_cpu_backend)) for each in (busy, dropping)]
            async with InternalAPIServer(manager) as server:
                await page.goto(server.address)
                names = ["redis-2", "redis-1", "hot+redis-1", "memory-1"]
                shown = page.locator("article")
                await expect(shown.locator("h2")).to_have_text(names, timeout=15_000)
                await expect(shown.nth(0)).to_contain_text("Advice: the store cannot be reached")
                await expect(shown.nth(1)).to_contain_text("Puts dropped, by reason")
                await expect(shown.nth(2)).to_contain_text("prefix llama")
                await expect(shown.nth(2)).to_contain_text("hot hit rate")
                await expect(shown.nth(2).get_by_role("table", name="Time of calls, last minute")).to_be_visible(
                    timeout=15_000
                )
                await expect(shown.nth(2).get_by_role("table", name="What the server tells")).to_contain_text(
                    "keys evicted"
                )
                await expect(page.locator("article.idle h2")).to_have_text(["memory-1"])
                await expect(page.locator("#overall")).to_have_text("1 failing, 1 degraded of 4 stores")
                for width in (390, 1280):
                    await page.set_viewport_size({"width": width, "height": 800})
                    assert await page.evaluate("document.documentElement.scrollWidth") <= width
                    await page.screenshot(path=tmp_path / f"four-{width}.png", full_page=True)
            for task in moving:
                task.cancel()
            await asyncio.wait(moving)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_page_without_stores_says_so(page: Any, local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(None, None, local_cpu_backend) as manager, InternalAPIServer(manager) as server:
        await page.goto(server.address)
        await playwright.expect(page.locator("#none")).to_be_visible()
        await playwright.expect(page.locator("#overall")).to_have_text("no stores")


@pytest.mark.asyncio(loop_scope="module")
async def test_the_switches_want_the_token_and_a_second_click_and_keep_the_token_nowhere(
    page: Any, local_cpu_backend: LocalCPUBackend
) -> None:
    expect = playwright.expect
    async with ConnectorManager("memory://page", None, local_cpu_backend) as manager:
        connector = manager.create_connector()
        async with InternalAPIServer(manager, APIServerConfig.load(token=TOKEN)) as server:
            await page.goto(server.address)
            bypass = page.get_by_role("group", name="Switches of memory-1").get_by_role("button").first
            await expect(page.locator("[data-connector=memory-1]")).to_be_visible()
            await expect(bypass).to_be_hidden()
            await page.locator("#operator summary").click()
            await page.fill("#operator-token", "a-wrong-token-of-some-length")
            await page.click("#unlock-button")
            await bypass.click()
            assert connector.bypass is False
            await expect(bypass).to_have_text("Really bypass?")
            await bypass.click()
            answer = page.locator("[data-connector=memory-1] .answer")
            await expect(answer).to_have_text("The token is missing or wrong.")
            assert connector.bypass is False

            await page.click("#unlock-button")  # hides them
            await expect(page.locator("#operator-token")).to_be_visible()
            await page.fill("#operator-token", TOKEN)
            await page.click("#unlock-button")
            await bypass.click()
            await bypass.click()
            await expect(answer).to_have_text("Done.")
            assert connector.bypass is True
            await expect(bypass).to_have_text("Use again", timeout=15_000)
            await expect(bypass).to_be_focused()  # although the card was drawn again meanwhile
            await expect(page.locator("#overall")).to_have_text("1 bypassed of 1 store")
            assert await page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
            assert TOKEN not in await page.content()


@pytest.mark.asyncio(loop_scope="module")
async def test_names_that_look_like_markup_are_shown_as_text(page: Any, local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(None, None, local_cpu_backend) as manager:
        manager.create_connector("memory://i/<img/src=x>")
        async with InternalAPIServer(manager) as server:
            await page.goto(server.address)
            await playwright.expect(page.locator("[data-connector=memory-1]")).to_contain_text("<img")
            assert await page.locator("#stores img").count() == 0


def test_the_page_holds_nothing_from_elsewhere() -> None:
    page = StatusPage.load()
    assert "https://" not in page.html
    assert [line for line in page.html.splitlines() if "http://" in line and "www.w3.org/2000/svg" not in line] == []
    assert "innerHTML" not in page.html
    assert page.content_security_policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in page.content_security_policy
