"""`lmcache-connect serve`."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated, Final

import typer

from ..frame.command import Command
from ..frame.output import console, print_json
from ..frame.store_argument import URL_SHAPE, store_urls
from .document import serving_document
from .serving import Serving
from .table import print_serving


def serve(
    stores: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="URL",
            help=f"The stores, such as {URL_SHAPE}. Without them: --url, the variable LMCACHE_CONNECT_URL, or url in "
            "the settings file. The variable may name several, with spaces between them.",
            show_default=False,
        ),
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A store, where none is an argument. May be given several times."),
    ] = None,
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

    Other settings come from the environment, LMCACHE_CONNECT_API_<SETTING>, or [api] of the settings file. Every
    address except loopback needs a token. The server stops gracefully on SIGTERM and SIGINT. Exits with 0 when it was
    stopped, 2 if it could not start.
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
            print_json(serving_document(serving))
        else:
            print_serving(serving, console())

    urls = store_urls(stores, url)
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    from .serve import run_server

    settings = {name: value for name, value in given.items() if value is not None}
    asyncio.run(run_server(urls, settings, started))


COMMAND: Final = Command(
    serve, ("redis://cache:6379", "--port 9000 --metrics-port 9001 redis://cache:6379 s3://bucket/prefix")
)
