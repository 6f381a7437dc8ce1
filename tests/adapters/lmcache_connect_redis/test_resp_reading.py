"""Replies read off a scripted wire, without a server: the same code on the event loop and in a thread."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from lmcache_connect import StoreError
from lmcache_connect.errors import StoreFullError, StoreProtocolError
from lmcache_connect.testing import ScriptedWire
from lmcache_connect.transport import StreamClosedError, ThreadStream
from lmcache_connect_redis.protocol.connection import Connection
from lmcache_connect_redis.protocol.replies import encode_command
from lmcache_connect_redis.protocol.tenure import Tenure

pytestmark = pytest.mark.asyncio

Over = Callable[[ScriptedWire], Connection]


@pytest_asyncio.fixture(params=["loop", "thread"])
async def over(request: pytest.FixtureRequest) -> AsyncIterator[Over]:
    """Makes a connection over a wire, on the event loop or as a thread has it."""
    made: list[Connection] = []

    def make(wire: ScriptedWire) -> Connection:
        made.append(Connection(wire.loop_stream() if request.param == "loop" else wire.thread_stream(), "the store"))
        return made[-1]

    yield make
    for connection in made:
        connection.close()
        if isinstance(connection.stream, ThreadStream):
            connection.stream.hand_back()


REPLIES = b":-42\r\n+OK\r\n*2\r\n$1\r\na\r\n$3\r\nb\r\n\r\n"


@pytest.mark.parametrize("at", range(1, len(REPLIES)))
async def test_replies_are_read_wherever_the_network_cuts_them(over: Over, at: int) -> None:
    wire = ScriptedWire(REPLIES[:at], BlockingIOError(), REPLIES[at:])
    connection = over(wire)
    await connection.send(encode_command(b"A") + encode_command(b"B") + encode_command(b"C", b"c"), replies=3)
    assert wire.sent == b"*1\r\n$1\r\nA\r\n*1\r\n$1\r\nB\r\n*2\r\n$1\r\nC\r\n$1\r\nc\r\n"
    assert await connection.read_integer() == -42
    await connection.read_ok()
    assert await connection.read_array(1000, 100) == [b"a", b"b\r\n"]
    connection.pending -= 1  # as who sent the command counts an array
    assert wire.is_done
    assert connection.is_reusable


async def test_an_error_reply_is_raised_and_the_connection_stays_in_step(over: Over) -> None:
    connection = over(ScriptedWire(b"-OOM command not allowed\r\n:1\r\n"))
    await connection.send(b"...", replies=2)
    with pytest.raises(StoreFullError, match="maxmemory"):
        await connection.read_integer()
    assert connection.pending == 1
    assert await connection.read_integer() == 1
    assert connection.is_reusable


@pytest.mark.parametrize(
    "reply", [b":abc\r\n", b":\r\n", b"+OK\r\n", b"!\r\n", b"\r\n", b"$5\r\nhello\r\n", b":" + b"9" * 5000 + b"\r\n"]
)
async def test_a_reply_that_is_not_understood_closes_the_connection(over: Over, reply: bytes) -> None:
    connection = over(ScriptedWire(reply))
    await connection.send(b"...")
    with pytest.raises((StoreProtocolError, StreamClosedError)):
        await connection.read_integer()
    assert not connection.is_reusable
    assert not connection.stream.is_open


@pytest.mark.parametrize("reply", [b"*9999\r\n", b"*2\r\n$101\r\n", b"*3\r\n" + b"$100\r\n%b\r\n" % (b"x" * 100) * 3])
async def test_an_array_beyond_its_limits_is_refused_before_it_is_read(over: Over, reply: bytes) -> None:
    connection = over(ScriptedWire(reply))
    with pytest.raises(StoreProtocolError, match=r"expected at most|of more than"):
        await connection.read_array(300, 100)
    assert not connection.stream.is_open


async def test_a_server_that_resets_the_connection_is_quoted(over: Over) -> None:
    said = b"-ERR max number of clients reached\r\n"
    connection = over(ScriptedWire(said, sends=[ConnectionResetError("reset")]))
    with pytest.raises(StreamClosedError) as caught:
        await connection.send(encode_command(b"PING"))
    assert caught.value.last_words == said


FLAGS = b":1\r\n:0\r\n:12\r\n:-1\r\n:1\r\n-OOM first\r\n:1\r\n-NOPERM second\r\n:1\r\n"


@pytest.mark.parametrize("at", range(1, len(FLAGS)))
async def test_outstanding_integers_are_all_taken_before_the_first_refusal_among_them_is_raised(
    over: Over, at: int
) -> None:
    connection = over(ScriptedWire(FLAGS[:at], BlockingIOError(), FLAGS[at:]))
    await connection.send(b"...", replies=5)
    assert await connection.read_flags(1) == [True, False, False, False, True]
    connection.pending += 4
    with pytest.raises(StoreFullError, match="first"):
        await connection.read_flags(1)
    assert connection.pending == 0
    assert connection.is_reusable


async def test_outstanding_integers_are_given_up_when_the_connection_breaks(over: Over) -> None:
    connection = over(ScriptedWire(b":1\r\n-OOM first\r\n+OK\r\n"))
    await connection.send(b"...", replies=4)
    with pytest.raises(StoreProtocolError, match="an integer"):
        await connection.discard_integers()
    assert not connection.stream.is_open


async def test_an_error_reply_inside_an_array_closes_the_connection(over: Over) -> None:
    # The items behind it would be taken for the replies to other commands.
    connection = over(ScriptedWire(b"*2\r\n-ERR no\r\n$1\r\na\r\n"))
    await connection.send(b"...")
    with pytest.raises(StoreProtocolError, match="is not a string"):
        await connection.read_array(1000, 100)
    assert not connection.stream.is_open


@pytest.mark.parametrize(
    ("reply", "is_taken"),
    [
        (b"+OK\r\n", True),
        (b":0\r\n", True),
        (b"-ERR unknown command 'PING'\r\n", False),
        (b"-NOPERM this user has no permissions\r\n", False),
        (b"-invalid request\r\n", False),
    ],
)
async def test_a_command_is_taken_unless_the_server_lacks_it_or_the_user_may_not_use_it(
    over: Over, reply: bytes, is_taken: bool
) -> None:
    connection = over(ScriptedWire(reply))
    await connection.send(b"...")
    assert await connection.read_taken() == is_taken
    assert connection.is_reusable


@pytest.mark.parametrize(
    "reply", [b"-NOAUTH no\r\n", b"-NOREPLICAS no\r\n", b"-OOM no\r\n", b"-ERR max number of clients\r\n"]
)
async def test_a_state_of_the_server_is_no_lack_of_a_command(over: Over, reply: bytes) -> None:
    connection = over(ScriptedWire(reply))
    await connection.send(b"...")
    with pytest.raises(StoreError):
        await connection.read_taken()
    assert connection.is_reusable


@pytest.mark.parametrize(
    "code",
    [
        b"READONLY",
        b"LOADING",
        b"MASTERDOWN",
        b"MOVED",
        b"NOAUTH",
        b"EXECABORT Transaction discarded because of: READONLY",
    ],
)
async def test_where_a_new_connection_may_do_better_no_old_one_is_used_again(over: Over, code: bytes) -> None:
    tenure = Tenure(began=-math.inf)
    one, other = (
        Connection(ScriptedWire(reply).thread_stream(), "store", tenure=tenure) for reply in (b"-%b x\r\n" % code, b"")
    )
    await one.send(b"...")
    assert other.is_reusable
    with pytest.raises(StoreError):
        await one.read_ok()
    assert not one.is_reusable
    assert not other.is_reusable
    for connection in (one, other):
        connection.close()


@pytest.mark.parametrize("status", [b"QUEUED", b"ok", b"OKAY", b""])
async def test_another_status_than_the_expected_one_is_no_success(over: Over, status: bytes) -> None:
    connection = over(ScriptedWire(b"+%b\r\n" % status))
    await connection.send(b"...")
    with pytest.raises(StoreProtocolError, match=r"expected '.OK'"):
        await connection.read_ok()
    assert not connection.stream.is_open
