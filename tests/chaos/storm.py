"""`Storm`: starts servers, proxies and processes, kills some of them, and looks at what is left.

    calm      a server without a limit. Nobody harms it: what was put must be there.
    cut       the same server through a proxy that cuts, stalls and delays connections. What was put must be there.
    brief     the same server, with a time to live of a second.
    tight     a server with little memory, which evicts, or refuses, as a policy says that changes all the time.
    flipped   a server behind a proxy that also changes and loses bytes. Nothing wrong may come back.

Seven processes use them. The first has actors in its event loop, in another loop and in threads. Three mostly write,
and are killed and started again. Three only read.

With `tasks`, a storm is of another kind. One process has that many tasks, most of them in one event loop, each with
keys of its own. They make single calls at the same time, on one connector of one server:

    struck    a server that is killed and restarted, and then holds nothing. Bytes of its records are changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from .aftermath import Aftermath
from .crew import UNHARMED, Orders
from .journal import Journal
from .losses import STRUCK, Losses
from .roamer import TTL
from .servers import POLICIES, TIGHT_BYTES, StoreServer, make_server, url_port, url_through

_WRITERS: Final = 3
_READERS: Final = 3
_MIB: Final = 1 << 20
_BAD_WORDS: Final = ("Traceback", "never retrieved", "never awaited", "ResourceWarning", "Fatal Python error")
"""What no process prints unless something was forgotten, or went wrong unseen."""


@dataclass(frozen=True)
class Storm:
    """What a storm is to be like. `pause` is the mean pause of an actor between two calls, in seconds.

    `grace`: whether to wait until the store is empty. Otherwise, what is left must be about to expire.
    `kill_every`: the mean time in seconds between two kills of writers or, with `tasks`, of the server.
    """

    server: str
    seconds: float
    seed: int
    binary: str | None = None
    largest: int = 40 * _MIB
    pause: float = 0.02
    kill_every: float = 4.0
    grace: bool = True
    tasks: int = 0
    say: Callable[[str], None] = lambda text: None

    def run(self) -> Journal:
        """Runs it, and returns what was seen. A journal without violations is a storm that was passed.

        Raises:
            FileNotFoundError, MissingExtraError: there is no such server on this machine.
            ServerStartError: a server did not start.
        """
        return asyncio.run(self._run())

    async def _run(self) -> Journal:
        journal = Journal()
        directory = Path(tempfile.mkdtemp(prefix="storm-"))
        try:
            if self.tasks:
                with make_server(self.server, self.binary) as struck:
                    self.say(f"{struck.name}, {self.seconds:.0f} s, {self.tasks} tasks, seed {self.seed}")
                    await self._strike(journal, directory, struck)
                    self._collect(journal, directory)
                return journal
            with (
                make_server(self.server, self.binary) as calm,
                make_server(self.server, self.binary, TIGHT_BYTES) as tight,
                make_server(self.server, self.binary) as flipped,
            ):
                self.say(f"{calm.name}, {self.seconds:.0f} s, seed {self.seed}")
                await self._rage(journal, directory, calm, tight, flipped)
                self._collect(journal, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return journal

    async def _rage(
        self, journal: Journal, directory: Path, calm: StoreServer, tight: StoreServer, flipped: StoreServer
    ) -> None:
        async with _process("tests.chaos.weather", directory / "weather.log") as weather:
            ports = {"seed": self.seed, "calm": url_port(calm), "flipped": url_port(flipped)}
            assert weather.stdin is not None
            assert weather.stdout is not None
            weather.stdin.write(json.dumps(ports).encode() + b"\n")
            ports = json.loads(await weather.stdout.readline())
            orders = Orders(
                name="main",
                life=0,
                seed=self.seed,
                urls={
                    "calm": calm.url(),
                    "cut": url_through(calm, ports["cut"], {"prefix": "cut"}),
                    UNHARMED: calm.url(options={"prefix": "cut"}),
                    "brief": calm.url(options={"prefix": "brief", "ttl": f"{TTL:g}"}),
                    "tight": tight.url(),
                    "flipped": url_through(flipped, ports["flipped"]),
                },
                ends=0.0,
                arena=96 * _MIB,
                largest=self.largest,
                directory=str(directory),
                writes=0.4,
                keeps=True,
                elsewhere=True,
                pause=self.pause,
            )
            writer = replace(orders, elsewhere=False, writes=0.8)
            reader = replace(orders, elsewhere=False, writes=0.0, keeps=False)
            crews = [orders]
            crews += [replace(writer, name=f"writer-{n}") for n in range(_WRITERS)]
            crews += [replace(reader, name=f"reader-{n}") for n in range(_READERS)]
            start = _Start(len(crews), self.seconds)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._change_policies(tight, start))
                for crew in crews:
                    kills = random.Random(f"{self.seed}/{crew.name}") if "writer" in crew.name else None
                    group.create_task(self._live(journal, directory, crew, start, kills))
            weather.stdin.close()
            fired = json.loads(await asyncio.wait_for(weather.stdout.readline(), 30))
        for what, number in fired.items():
            journal.count(f"fault: {what}", number)
        self.say("the storm is over; looking at what is left")
        harm = sum(number for what, number in fired.items() if "to_server" in what)
        await Aftermath(journal, orders.urls, self.grace, self.say).run(calm, tight, flipped, harm)

    async def _strike(self, journal: Journal, directory: Path, struck: StoreServer) -> None:
        orders = Orders(
            name="throng",
            life=0,
            seed=self.seed,
            urls={STRUCK: struck.url()},
            ends=0.0,
            arena=256 * _MIB,
            largest=min(self.largest, 6 * _MIB),
            directory=str(directory),
            writes=0.0,
            keeps=False,
            elsewhere=False,
            pause=self.pause,
            tasks=self.tasks,
        )
        start = _Start(1, self.seconds)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._kill(journal, Losses(orders.losses_path()), struck, start))
            group.create_task(self._live(journal, directory, orders, start, None))
        self.say("the storm is over; looking at what is left")
        await Aftermath(journal, orders.urls, self.grace, self.say).empty(STRUCK, struck)

    async def _kill(self, journal: Journal, losses: Losses, struck: StoreServer, start: _Start) -> None:
        """Kills the server and starts it again, until the storm ends."""
        rng = random.Random(f"{self.seed}/kills")
        ends = await start.begun()
        while (pause := rng.uniform(0.5, 1.5) * self.kill_every) < ends - time.monotonic() - 1:
            await asyncio.sleep(pause)
            losses.note_kill()
            await asyncio.to_thread(struck.kill)
            losses.note_kill()  # it may have answered puts until now
            await asyncio.sleep(rng.choice((0.0, rng.uniform(0, 1))))
            await asyncio.to_thread(struck.restart)
            journal.count("kills of the server")

    async def _live(
        self, journal: Journal, directory: Path, orders: Orders, start: _Start, kills: random.Random | None
    ) -> None:
        """Runs one process until the storm's end. With `kills` it is killed now and then, and started again."""
        while True:
            async with _process("tests.chaos.child", directory / f"{orders.name}.log") as child:
                assert child.stdin is not None
                assert child.stdout is not None
                if not await child.stdout.readline():
                    journal.violate(f"{orders.name} did not start")
                orders = replace(orders, ends=await start.ready())
                child.stdin.write(json.dumps(orders.document()).encode() + b"\n")
                left = orders.ends - time.monotonic()
                lasts = kills.expovariate(1 / (self.kill_every * _WRITERS)) if kills is not None else left + 60
                try:
                    async with asyncio.timeout(min(lasts + 0.5, left + 45)):
                        code = await child.wait()
                except TimeoutError:
                    if time.monotonic() > orders.ends + 44:
                        journal.violate(f"{orders.name} has not ended 45 s after the storm")
                        return
                    child.kill()
                    await child.wait()
                    journal.count("kills")
                    if orders.ends - time.monotonic() < 1.5:
                        return
                    orders = replace(orders, life=orders.life + 1)
                    continue
                if code:
                    journal.violate(f"{orders.name} ended with status {code}")
                return

    async def _change_policies(self, tight: StoreServer, start: _Start) -> None:
        rng = random.Random(f"{self.seed}/policies")
        ends = await start.begun()
        with tight.client() as client:
            while (left := ends - time.monotonic()) > 0:
                await asyncio.to_thread(client.config_set, "maxmemory-policy", rng.choice(POLICIES))
                await asyncio.sleep(min(left, rng.uniform(1, 5)))

    def _collect(self, journal: Journal, directory: Path) -> None:
        """Adds what the processes have counted, and what they have printed without being asked."""
        for path in sorted(directory.glob("journal-*.json")):
            journal.merge(json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(directory.glob("*.log")):
            text = path.read_text(encoding="utf-8", errors="replace")
            at = min((text.find(word) for word in _BAD_WORDS if word in text), default=None)
            if at is not None:
                journal.violate(f"{path.name}: {text[max(0, at - 200) : at + 1500]}")


class _Start:
    """When a storm begins: once `processes` of them are ready, however long a busy machine takes to start them."""

    def __init__(self, processes: int, seconds: float) -> None:
        self._missing = processes
        self._seconds = seconds
        self._ends = asyncio.get_running_loop().create_future()

    async def ready(self) -> float:
        """Says that one more is ready. Waits for the others, and returns when the storm ends."""
        self._missing -= 1
        if not self._missing:
            self._ends.set_result(time.monotonic() + self._seconds)
        return await self.begun()

    async def begun(self) -> float:
        """Waits for all, and returns when the storm ends."""
        return float(await asyncio.shield(self._ends))


@contextlib.asynccontextmanager
async def _process(module: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process that runs `module`. It is killed if it is still there at the end."""
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-X",
            "faulthandler",
            "-W",
            "default::ResourceWarning",
            "-m",
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=_environment(),
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _environment() -> dict[str, Any]:
    """This process's, with all that it imports from. So it needs no installation, and no layout of folders."""
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *(path for path in sys.path if path)])}
