"""The commands: arguments in, exit codes out. What they do and what it looks like is elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

from .._version import __version__
from ..config import ConnectorConfig
from ..errors import LMCacheConnectError, MissingExtraError
from . import report
from .demo import run_demo
from .exits import EXIT_USAGE, PROGRAM
from .ping import run_ping
from .plugins import list_plugins
from .schemes import list_schemes
from .serving import Serving
from .workload import Workload, new_model_name

try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
except ImportError as missing:
    raise MissingExtraError("lmcache-connect", missing.name or "typer", "cli") from missing


app: Final = typer.Typer(
    help="KV caches of LLMs between Python and remote stores.",
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and one of these may be a password
    rich_markup_mode=None,
)

URL_SHAPE: Final = "redis://[user[:password]@]host[:port][/db][?option=value]"

AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]


@app.callback(invoke_without_command=True)
def lmcache_connect(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """KV caches of LLMs between Python and remote stores."""
    if version:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(EXIT_USAGE)


@app.command()
def demo(
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help=f"The store, such as {URL_SHAPE}. Without it, a Valkey runs for the demo."),
    ] = None,
    chunks: Annotated[int, typer.Option(min=1, max=256, metavar="N", help="Full chunks, of 32 MiB each.")] = 8,
    as_json: AsJSON = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what was written in the store. Needs --url.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Decides the bytes of the chunks.")] = 0,
    layers: Annotated[int, typer.Option(min=1, max=32, hidden=True)] = 32,
) -> None:
    """Put chunks of a KV cache into a store, get them back, compare every byte, and show what happened.

    It writes keys of its own, touches nobody else's, and removes what it wrote. Exits with 0 when everything verified,
    1 when something did not, 2 when the store could not be used.
    """
    if keep and url is None:
        raise typer.BadParameter("it needs --url: the store that the demo starts ends with it", param_hint="'--keep'")
    workload = Workload.llama(new_model_name(), chunks=chunks, layers=layers, seed=seed)
    try:
        with _progress(workload.transfer_bytes) as on_progress, _store(url, on_progress) as (store_url, server):
            found = asyncio.run(
                run_demo(store_url, workload, keep=keep, server=server, on_progress=on_progress, on_warning=_warn)
            )
    except (LMCacheConnectError, OSError) as error:
        _fail(error, as_json)
    if as_json:
        _print_json(report.demo_document(found))
    else:
        report.print_demo(found, Console())
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def ping(
    url: Annotated[
        str, typer.Option(metavar="URL", envvar="LMCACHE_CONNECT_URL", help=f"The store, such as {URL_SHAPE}.")
    ],
    timeout: Annotated[float, typer.Option(min=0.001, max=3600, metavar="S", help="Seconds for all of it.")] = 5.0,
    as_json: AsJSON = False,
) -> None:
    """Connect to a store and measure how fast it answers. Changes nothing in it.

    Exits with 0 when it answers, 2 when it does not.
    """
    try:
        found = asyncio.run(run_ping(url, timeout))
    except (LMCacheConnectError, OSError) as error:
        _fail(error, as_json)
    if as_json:
        _print_json(report.ping_document(found))
    else:
        report.print_ping(found, Console())


@app.command()
def schemes(as_json: AsJSON = False) -> None:
    """List the URL schemes that are known, who answers for them, and whether their adapters load."""
    found = list_schemes()
    if as_json:
        _print_json(report.schemes_document(found))
    else:
        report.print_schemes(found, Console())


@app.command()
def plugins(as_json: AsJSON = False) -> None:
    """List the plug-ins that the environment's configuration names and that are installed, and whether they load."""
    try:
        found = list_plugins(ConnectorConfig.load())
    except LMCacheConnectError as error:
        _fail(error, as_json)
    if as_json:
        _print_json(report.plugins_document(found))
    else:
        report.print_plugins(found, Console())


@app.command()
def serve(
    url: Annotated[
        list[str],
        typer.Option(
            metavar="URL",
            envvar="LMCACHE_CONNECT_URL",
            help=f"A store, such as {URL_SHAPE}. May be given several times.",
        ),
    ],
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="The address to listen on, 127.0.0.1 by default."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="The port; 0, the default, takes a free one.")
    ] = None,
    unix_socket: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Listen on this unix socket instead, made with mode 0600.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the token that callers have to send."),
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Serve /metrics alone on this port as well; 0 takes a free one.")
    ] = None,
    metrics_host: Annotated[str | None, typer.Option(metavar="HOST", help="The address of that port.")] = None,
    metrics_open: Annotated[
        bool | None, typer.Option("--metrics-open", help="Let that port listen on any address without a token.")
    ] = None,
    log_level: Annotated[str, typer.Option(metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout once it listens, and nothing else there.")
    ] = False,
) -> None:
    """Serve the internal API for one or several stores: health, metrics, statistics, switches, and a page at /.

    Settings that are not given come from the environment, LMCACHE_CONNECT_API_<SETTING>. Any address but a loopback
    address needs a token. Stops gracefully on SIGTERM and SIGINT. Exits with 0 when it was stopped, 2 when it could
    not start.
    """
    if log_level.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise typer.BadParameter(f"{log_level!r}; expected DEBUG, INFO, WARNING or ERROR", param_hint="'--log-level'")
    given = {
        "host": host,
        "port": port,
        "unix_socket": unix_socket,
        "token_file": token_file,
        "metrics_port": metrics_port,
        "metrics_host": metrics_host,
        "metrics_open": metrics_open,
    }

    def started(serving: Serving) -> None:
        if as_json:
            _print_json(report.serving_document(serving))
        else:
            report.print_serving(serving, Console())

    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        from .serve import run_server

        settings = {name: value for name, value in given.items() if value is not None}
        asyncio.run(run_server(url, settings, started))
    except (LMCacheConnectError, OSError) as error:
        _fail(error, as_json)


# --------------------------------------------------------------------------------------------------- their parts


@contextlib.contextmanager
def _store(url: str | None, on_progress: Callable[[str, int], None]) -> Iterator[tuple[str, str | None]]:
    """The URL that was given, or that of a Valkey server for the block; and the server's name, where it is ours."""
    if url is not None:
        yield url, None
        return
    on_progress("starting a Valkey server", 0)
    try:
        from ..testing import ValkeyServer
    except ModuleNotFoundError as error:
        raise MissingExtraError("the demo's own store", error.name or "?", "testing") from error
    # A password, because anybody on the machine can reach a port of the loopback interface.
    with ValkeyServer(password=secrets.token_urlsafe(16)) as server:
        yield server.url("valkey"), server.name


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """A progress bar on stderr for the block, where that is a terminal. It leaves nothing behind."""
    if not sys.stderr.isatty():
        yield lambda _text, _nbytes: None
        return
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(complete_style="cyan", finished_style="cyan"),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda text, nbytes: bar.update(task, description=text, advance=nbytes)


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2))


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


def _fail(error: Exception, as_json: bool) -> NoReturn:
    """Says in one line what is wrong, without a traceback: it is not this program that is."""
    if as_json:
        _print_json(report.error_document(error))
    typer.echo("\n".join((f"error: {error}", *getattr(error, "__notes__", ()))), err=True)
    raise typer.Exit(EXIT_USAGE)
