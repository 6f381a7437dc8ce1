"""A port belongs to one process. Each test has processes of its own: a fork of pytest's inherits its threads' locks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

TOOLS: Final = """
import faulthandler, multiprocessing, os, signal, subprocess, sys, threading
from lmcache_connect.engines.jobs import JobPort
from lmcache_connect.errors import ForkedProcessError

URL = sys.argv[1]

def in_fork(check):
    "Runs `check` in a fork. Returns its exit status: 0 where it returned True within ten seconds."
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    faulthandler.dump_traceback_later(8)
    signal.alarm(10)
    try:
        os._exit(0 if check() is True else 1)
    except BaseException as error:
        print("child:", type(error).__name__, error, file=sys.stderr, flush=True)
        os._exit(2)

def refuses(call, *args):
    try:
        call(*args)
    except ForkedProcessError:
        return True
    print("not refused:", call, file=sys.stderr, flush=True)
    return False

def works(port, key="k"):
    chunk = os.urandom(4096)
    stored, into = port.wait(port.submit_put([key], [chunk])), bytearray(4096)
    loaded = port.wait(port.submit_get([key], [into]))
    return stored.ok and loaded.ok and bytes(into) == chunk
"""


def run_script(script: str, url: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TOOLS + textwrap.dedent(script), url],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@needs_fork
def test_every_method_refuses_in_a_fork_at_once_and_the_parent_goes_on(valkey_url: str) -> None:
    run_script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads, in newer Pythons
        port = JobPort(URL)
        assert works(port)
        ended = threading.Event()

        def use():
            while not ended.is_set():
                assert works(port, threading.current_thread().name)

        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()

        def check():
            calls = [
                (port.submit_get, ["k"], [bytearray(4096)]),
                (port.submit_put, ["k"], [bytes(4096)]),
                (port.submit_exists, ["k"]),
                (port.submit_remove, ["k"]),
                (port.drain,),
                (port.wait, 1),
                (port.statistics,),
                (port.status,),
                (port.release_memory,),
                (port.guard, object(), "close"),
                (lambda: port.event_fd,),
                (port.__enter__,),
            ]
            return all([refuses(*call) for call in calls]) and port.let_go() and port.close() is None

        for _ in range(10):
            assert in_fork(check) == 0
        ended.set()
        for thread in threads:
            thread.join(10)
        assert works(port)
        port.close()
        """,
        valkey_url,
    )


@needs_fork
def test_a_fork_makes_ports_of_its_own_while_the_parent_goes_on(valkey_url: str) -> None:
    run_script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        with JobPort(URL) as port:
            assert works(port)

            def check():
                with JobPort(URL) as mine:
                    return works(mine, "child") and mine.connector is not port.connector

            assert in_fork(check) == 0
            assert works(port)
            assert port.wait(port.submit_exists(["child"])).ok
        """,
        valkey_url,
    )


@needs_fork
def test_a_port_that_is_forgotten_in_a_fork_leaves_the_parents_alone(valkey_url: str) -> None:
    run_script(
        """
        import gc, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        port = JobPort(URL)
        assert works(port)

        def check():
            global port
            del port
            gc.collect()
            return True

        assert in_fork(check) == 0
        assert works(port)
        port.close()
        """,
        valkey_url,
    )


def test_a_port_cannot_be_given_to_a_process_that_is_spawned(valkey_url: str) -> None:
    run_script(
        """
        if __name__ == "__main__":
            with JobPort(URL) as port:
                process = multiprocessing.get_context("spawn").Process(target=print, args=(port,))
                try:
                    process.start()
                except TypeError as error:
                    assert "cannot pickle a JobPort" in str(error), error
                else:
                    raise AssertionError("it was pickled")
                assert works(port)
        """,
        valkey_url,
    )


@needs_fork
def test_a_port_cannot_be_used_by_a_process_of_multiprocessing_that_forks(valkey_url: str) -> None:
    run_script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)

        def use(port):
            sys.exit(0 if refuses(port.submit_exists, ["k"]) else 1)

        with JobPort(URL) as port:
            assert works(port)
            process = multiprocessing.get_context("fork").Process(target=use, args=(port,))
            process.start()
            process.join(10)
            assert process.exitcode == 0
            assert works(port)
        """,
        valkey_url,
    )


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")
def test_no_descriptor_of_a_port_survives_an_exec(valkey_url: str) -> None:
    run_script(
        """
        with JobPort(URL) as port:
            assert works(port)
            code = "import os; print(sorted(os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')"
            code += " if os.path.lexists(f'/proc/self/fd/{fd}') and int(fd) > 2))"
            # Without `close_fds`, what is inherited is what does not close itself.
            done = subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, text=True)
            assert "socket" not in done.stdout and "event" not in done.stdout, done.stdout
        """,
        valkey_url,
    )


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "port.itself = port", "del port; sys.exit(0)"])
def test_a_process_that_never_closes_its_port_ends(valkey_url: str, end: str) -> None:
    run_script(
        f"""
        import warnings
        warnings.simplefilter("ignore", ResourceWarning)
        port = JobPort(URL)
        assert works(port)
        job = port.submit_exists(["k"])
        {end}
        """,
        valkey_url,
    )
