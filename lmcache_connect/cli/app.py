"""The commands: they parse arguments, call the module that does the work, and print its report.

For each command there is a module with its work (`demo`, `ping`, ...), a table in `tables.py` and a document in
`documents.py`.
"""

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
from ..known_secrets import clean
from . import documents, tables
from .demo import run_demo
from .engines import Facts, describe_engines
from .exits import EXIT_NOT_VERIFIED, EXIT_USAGE, PROGRAM
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
    pretty_exceptions_enable=False,  # its tracebacks show local variables, and one may be a password
    rich_markup_mode=None,
)

URL_SHAPE: Final = "redis://[user[:password]@]host[:port][/db][?option=value]"

AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]


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
        typer.Option(
            metavar="URL",
            help=f"The store, such as {URL_SHAPE}. Without it, the demo starts a Valkey server of its own.",
        ),
    ] = None,
    chunks: Annotated[
        int, typer.Option(min=1, max=256, metavar="N", help="The number of full chunks, of 32 MiB each.")
    ] = 8,
    as_json: AsJSON = False,
    keep: Annotated[bool, typer.Option("--keep", help="Do not remove the chunks from the store. Needs --url.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed of the random bytes in the chunks.")] = 0,
    layers: Annotated[int, typer.Option(min=1, max=32, hidden=True)] = 32,
) -> None:
    """Put chunks of a KV cache into a store, get them back, compare every byte, and show the results.

    The demo uses its own keys, does not touch any others, and removes its own at the end. Exits with 0 if every byte
    was right, 1 if not, 2 if the store could not be used.
    """
    if keep and url is None:
        raise typer.BadParameter(
            "it needs --url, because a store that the demo starts is deleted at its end", param_hint="'--keep'"
        )
    workload = Workload.llama(new_model_name(), chunks=chunks, layers=layers, seed=seed)
    try:
        with _progress(workload.transfer_bytes) as on_progress, _store(url, on_progress) as (store_url, server):
            found = asyncio.run(
                run_demo(store_url, workload, keep=keep, server=server, on_progress=on_progress, on_warning=_warn)
            )
    except (LMCacheConnectError, OSError) as error:
        _fail(error, as_json)
    if as_json:
        _print_json(documents.demo_document(found))
    else:
        tables.print_demo(found, Console())
    if not found.ok:
        raise typer.Exit(EXIT_NOT_VERIFIED)


@app.command()
def ping(
    url: Annotated[
        str, typer.Option(metavar="URL", envvar="LMCACHE_CONNECT_URL", help=f"The store, such as {URL_SHAPE}.")
    ],
    timeout: Annotated[
        float, typer.Option(min=0.001, max=3600, metavar="S", help="Seconds for connecting and all calls together.")
    ] = 5.0,
    as_json: AsJSON = False,
) -> None:
    """Connect to a store and measure how fast it answers. Changes nothing in the store.

    Of a store with several servers, those that do not answer are named. Exits with 0 if the store answers, 2 if not.
    """
    try:
        found = asyncio.run(run_ping(url, timeout))
    except (LMCacheConnectError, OSError) as error:
        _fail(error, as_json)
    if as_json:
        _print_json(documents.ping_document(found))
    else:
        tables.print_ping(found, Console())


@app.command()
def schemes(as_json: AsJSON = False) -> None:
    """List the known URL schemes, their adapters, and whether the adapters load."""
    found = list_schemes()
    if as_json:
        _print_json(documents.schemes_document(found))
    else:
        tables.print_schemes(found, Console())


@app.command()
def plugins(as_json: AsJSON = False) -> None:
    """List the plug-ins from the environment's configuration and the installed ones, and whether they load."""
    try:
        found = list_plugins(ConnectorConfig.load())
    except LMCacheConnectError as error:
        _fail(error, as_json)
    if as_json:
        _print_json(documents.plugins_document(found))
    else:
        tables.print_plugins(found, Console())


@app.command()
def engines(
    url: Annotated[
        str | None, typer.Option(metavar="URL", envvar="LMCACHE_CONNECT_URL", help=f"The store, such as {URL_SHAPE}.")
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="NAME", help="The model's commit or date.")] = None,
    dtype: Annotated[str | None, typer.Option(metavar="NAME", help="The KV cache's dtype, for LMCache.")] = None,
    kv_layout: Annotated[str | None, typer.Option(metavar="NAME", help="A name for its layout, for LMCache.")] = None,
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="The tenant, which every key shows.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Show which engines are installed, and what to paste into their configuration for a store.

    The texts hold no secret: a password is read from the environment. Connects to nothing.
    Exits with 0 if the URL is understood, 2 if not.
    """
    try:
        found = asyncio.run(describe_engines(url, Facts(revision, dtype, kv_layout, tenant)))
    except (LMCacheConnectError, OSError) as error:
        _fail(error, as_json)
    if as_json:
        _print_json(documents.engines_document(found))
    else:
        tables.print_engines(found, Console())


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
        Path | None,
        typer.Option(metavar="PATH", help="Listen on a unix socket at this path instead. It gets the mode 0600."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file with the token that callers must send."),
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="A second port, for /metrics only; 0 takes a free one.")
    ] = None,
    metrics_host: Annotated[str | None, typer.Option(metavar="HOST", help="The address of the metrics port.")] = None,
    metrics_open: Annotated[
        bool | None, typer.Option("--metrics-open", help="Allow the metrics port on any address without a token.")
    ] = None,
    log_level: Annotated[str, typer.Option(metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON document on stdout when the server listens, and nothing else."),
    ] = False,
) -> None:
    """Serve the internal API for one or several stores: health, metrics, statistics, switches, and a page at /.

    Other settings come from the environment, LMCACHE_CONNECT_API_<SETTING>. Every address except loopback needs a
    token. The server stops gracefully on SIGTERM and SIGINT. Exits with 0 when it was stopped, 2 if it could not start.
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
            _print_json(documents.serving_document(serving))
        else:
            tables.print_serving(serving, Console())

    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        from .serve import run_server

        settings = {name: value for name, value in given.items() if value is not None}
        asyncio.run(run_server(url, settings, started))
    except (LMCacheConnectError, OSError) as error:
        _fail(error, as_json)


# ------------------------------------------------------------------------------------------------------ parts


@contextlib.contextmanager
def _store(url: str | None, on_progress: Callable[[str, int], None]) -> Iterator[tuple[str, str | None]]:
    """The given URL and None. Without a URL: that of a Valkey server, which runs in the `with` block, and its name."""
    if url is not None:
        yield url, None
        return
    on_progress("starting a Valkey server", 0)
    try:
        from ..testing import ValkeyServer
    except ModuleNotFoundError as error:
        raise MissingExtraError("the demo's own store", error.name or "?", "testing") from error
    # With a password, because every user of the machine can connect to a port on loopback.
    with ValkeyServer(password=secrets.token_urlsafe(16)) as server:
        yield server.url("valkey"), server.name


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """Shows a progress bar in the `with` block, if stderr is a terminal. It disappears at the end."""
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
    typer.echo(clean(json.dumps(document, indent=2)))


def _warn(text: str) -> None:
    typer.echo(clean(f"warning: {text}"), err=True)


def _fail(error: Exception, as_json: bool) -> NoReturn:
    """Prints the error in one line. There is no traceback, because the program itself did not fail."""
    if as_json:
        _print_json(documents.error_document(error))
    typer.echo(clean("\n".join((f"error: {error}", *getattr(error, "__notes__", ())))), err=True)
    raise typer.Exit(EXIT_USAGE)
