"""What a fork inherits: every object refuses at once, and the parent goes on as if there had been no fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

FORKS = 20

TOOLS = """
    import asyncio, faulthandler, gc, os, signal, sys, threading
    from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend
    from lmcache_connect.errors import ForkedProcessError

    def in_fork(check):
        "Runs `check` in a fork. Returns its exit status: 0 where it returned True within five seconds."
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        faulthandler.dump_traceback_later(4)
        signal.alarm(5)
        try:
            os._exit(0 if check() is True else 1)
        except BaseException as error:
            print("child:", type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(2)

    def refuses(call, *args):
        try:
            result = call(*args)
            if asyncio.iscoroutine(result):
                result.send(None)  # a pause would run the parent's event loop
        except ForkedProcessError:
            return True
        print("not refused:", call, file=sys.stderr, flush=True)
        return False
"""


def run_script(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(TOOLS) + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_memory_refuses_in_a_fork_while_the_parents_threads_allocate() -> None:
    out = run_script(
        f"""
        backend = LocalCPUBackend(1 << 24)
        kept = backend.allocate((4096,), "uint8")
        forgotten = [backend.allocate((4096,), "uint8") for _ in range(4)]
        ended = threading.Event()

        def work(number):
            while not ended.is_set():
                with backend.allocate((4096 * number,), "uint8") as obj:
                    obj.pin(); obj.unpin(); obj.ref_count_up(); obj.ref_count_down()
                    backend.submit_put_task(f"k{{number}}", obj)
                    backend.remove(f"k{{number}}")
                    backend.statistics()

        def check():
            refused = all([
                refuses(backend.allocate, (16,), "uint8"), refuses(backend.allocate_async, (16,), "uint8"),
                refuses(backend.batched_allocate, (16,), "uint8", 2), refuses(backend.statistics),
                refuses(backend.get_keys), refuses(backend.clear), refuses(backend.contains, "k"),
                refuses(backend.get_blocking, "k"), refuses(backend.hot_cache.statistics),
                refuses(lambda: kept.byte_array), refuses(kept.numpy), refuses(lambda: kept.data_ptr),
                refuses(lambda: kept.metadata), refuses(kept.ref_count_up), refuses(kept.ref_count_down),
                refuses(kept.get_ref_count), refuses(kept.pin), refuses(kept.unpin), refuses(kept.__enter__),
            ])
            assert not kept.is_valid()
            repr(kept), repr(backend)
            forgotten.clear()
            gc.collect()
            kept.__exit__(None, None, None)
            backend.close()
            with LocalCPUBackend(1 << 20) as fresh, fresh.allocate((4096,), "uint8") as obj:
                obj.byte_array[:4] = b"here"
                fresh.submit_put_task("k", obj)
            return refused

        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
        for thread in threads:
            thread.start()
        print([in_fork(check) for _ in range({FORKS})].count(0))
        ended.set()
        for thread in threads:
            thread.join()
        for obj in (kept, *forgotten):
            obj.ref_count_down()
        assert backend.statistics().reserved == 0
        """
    )
    assert out == f"{FORKS}\n"


def test_connectors_refuse_in_a_fork_and_the_parents_gets_go_on(valkey_url: str) -> None:
    out = run_script(
        f"""
        with ConnectorManager({valkey_url!r}) as manager:
            connector = manager.create_connector()
            with manager.local_cpu_backend.allocate((2 << 20,), "uint8") as chunk:
                connector.sync.put("k", chunk)
                connector.sync.put("l", chunk)
            ended = threading.Event()
            got = [0, 0]

            def work(key):
                while not ended.is_set():
                    with connector.sync.get(key):
                        got[0] += 1

            def check():
                keys = [f"k{{i}}" for i in range(3000)]
                refused = all([
                    refuses(manager.create_connector), refuses(manager.open_connector), refuses(manager.open),
                    refuses(manager.recreate, connector), refuses(manager.__enter__), refuses(manager.owner.check),
                    refuses(manager.owner.run_sync, "x", 1, asyncio.sleep, 0),
                    refuses(manager.owner.run, asyncio.sleep, 0),
                    refuses(connector.get, "k"), refuses(connector.exists, "k"), refuses(connector.remove, "k"),
                    refuses(connector.batched_get, keys), refuses(connector.batched_exists, keys),
                    refuses(connector.batched_remove, keys), refuses(connector.list), refuses(connector.ping),
                    refuses(connector.statistics),
                    refuses(connector.sync.get, "k"), refuses(connector.sync.exists, "k"),
                    refuses(connector.exists_sync, "k"), refuses(connector.batched_contains, keys),
                    refuses(connector.wrapped.get, "k"), refuses(connector.wrapped.exists, "k"),
                ])
                connector.sync.close()
                for closing in (connector.close(), manager.close(), manager.__aexit__(None, None, None)):
                    try:
                        closing.send(None)
                    except StopIteration:
                        continue
                    print("a pause in close()", file=sys.stderr, flush=True)
                    refused = False
                manager.__exit__(None, None, None)
                gc.collect()
                with ConnectorManager({valkey_url!r}) as fresh:
                    with fresh.create_connector().sync.get("k") as chunk:
                        return refused and chunk.get_size() == 2 << 20

            threads = [threading.Thread(target=work, args=(key,)) for key in "kl"]
            for thread in threads:
                thread.start()
            print([in_fork(check) for _ in range(10)].count(0))
            before = got[0]
            while got[0] < before + 10:
                pass
            ended.set()
            for thread in threads:
                thread.join()
            assert not connector.statistics()["get"].errors, connector.statistics()["get"].errors
        """
    )
    assert out == "10\n"


@pytest.mark.parametrize("leave", ["await manager.close()", "await manager.__aexit__(None, None, None)"])
def test_a_fork_that_closes_an_inherited_manager_takes_no_reply_from_the_parent(valkey_url: str, leave: str) -> None:
    out = run_script(
        f"""
        async def main():
            async with ConnectorManager({valkey_url!r}) as manager:
                connector = await manager.open_connector()
                with await manager.local_cpu_backend.allocate_async((2 << 20,), "uint8") as chunk:
                    await connector.put("k", chunk)
                async def get():
                    for _ in range(20):
                        with await connector.get("k") as found:
                            assert found.get_size() == 2 << 20
                    return True
                for _ in range(5):
                    gets = [asyncio.create_task(get()) for _ in range(4)]
                    await asyncio.sleep(0.01)
                    child = os.fork()
                    if child == 0:
                        signal.alarm(5)
                        {leave}
                        os._exit(0)
                    done = asyncio.to_thread(os.waitpid, child, 0)
                    assert await asyncio.wait_for(asyncio.gather(*gets), 20) == [True] * 4
                    print(os.waitstatus_to_exitcode((await done)[1]), end=" ")
                assert not connector.statistics()["get"].errors
        asyncio.run(main())
        """
    )
    assert out == "0 0 0 0 0 "
