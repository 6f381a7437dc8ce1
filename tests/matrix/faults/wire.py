"""Faults of the network, from the proxies of TCP."""

from __future__ import annotations

from lmcache_connect.testing import Direction, FaultKind
from lmcache_connect.testing import Fault as TCPFault

from ..cell import Operation
from ..limits import SIZE
from ..places.place import Place
from .fault import Fault, Trial, in_thread

_MIDDLE = SIZE // 2


class WireFault(Fault):
    """Once, to the connection that carries this call's payload."""

    family = "network"
    needs = "wire"
    way = "wire"
    each = True
    kind: FaultKind
    after = _MIDDLE

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        direction = Direction.TO_SERVER if operation == "put" else Direction.TO_CLIENT
        for wire in trial.place.wires:
            after = self.after_in(trial.place, direction)
            await in_thread(wire.arm, TCPFault(self.kind, direction, after_bytes=after, count=1))

    def after_in(self, place: Place, direction: Direction) -> int:
        """After how many bytes it happens."""
        return self.after

    async def end(self, trial: Trial) -> None:
        for wire in trial.place.wires:
            await in_thread(wire.disarm)


class Reset(WireFault):
    name = "reset"
    title = "connection reset"
    text = "One connection is reset in the middle of a payload. The next one works."
    kind = FaultKind.RESET


class HalfClose(WireFault):
    name = "half-close"
    title = "half-closed connection"
    text = "In the middle of a payload its receiver sees an orderly end. The sender does not notice."
    kind = FaultKind.TRUNCATE_AND_CLOSE


class Cut(WireFault):
    name = "cut"
    title = "connection cut"
    text = "Both ends of one connection see an orderly end after the first bytes of a call."
    kind = FaultKind.CLOSE
    after = 10


class FlipPayload(WireFault):
    name = "flip-payload"
    title = "bit flipped in a payload"
    text = "One bit of a payload is inverted on its way."
    kind = FaultKind.FLIP


class FlipHeader(WireFault):
    name = "flip-header"
    title = "bit flipped in a header"
    text = "One bit of a record's header is inverted on its way."
    kind = FaultKind.FLIP

    def after_in(self, place: Place, direction: Direction) -> int:
        return place.header[direction is Direction.TO_CLIENT]


class Lasting(WireFault):
    """Every connection, until it is over."""

    each = False

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        for wire in trial.place.wires:
            await in_thread(wire.arm, TCPFault(self.kind, Direction.TO_CLIENT, after_bytes=self.after))


class Refused(Lasting):
    name = "refused"
    title = "connections refused"
    text = "Every connection is closed, and each new one as well: a load balancer without a server behind it."
    kind = FaultKind.REFUSE
    after = 0

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        await super().begin(trial, operation)
        for wire in trial.place.wires:
            await in_thread(wire.drop_all)


class Stall(Lasting):
    name = "stall"
    title = "stalled answers"
    text = "Requests arrive. After the first bytes, no byte of an answer does, on any connection."
    kind = FaultKind.STALL
    after = 4


class BlackHole(Lasting):
    name = "black-hole"
    title = "black hole"
    text = "Connections can be made, and whatever is sent disappears: a firewall that drops packets."
    kind = FaultKind.SWALLOW

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        for wire in trial.place.wires:
            await in_thread(wire.arm, TCPFault(self.kind, Direction.TO_SERVER))
            # What is connected may go on where nothing was sent since: all have to connect again.


class SlowDrip(WireFault):
    name = "drip"
    title = "slow drip"
    text = "Every connection moves, but only 50 KiB a second: too slow for any deadline, never silent."

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        direction = Direction.TO_SERVER if operation == "put" else Direction.TO_CLIENT
        for wire in trial.place.wires:
            await in_thread(wire.arm, TCPFault(FaultKind.DRIP, direction, rate=50 << 10))


FAULTS: tuple[Fault, ...] = (
    Reset(), HalfClose(), Cut(), Refused(), Stall(), BlackHole(), SlowDrip(), FlipPayload(), FlipHeader(),
)  # fmt: skip
