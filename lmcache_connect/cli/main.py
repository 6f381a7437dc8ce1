"""The entry point. It imports typer and rich when it runs, so that it can name the extra where they are missing."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final, NoReturn

from ..config import FILE_VARIABLE
from ..errors import MissingExtraError
from ..redaction import redact
from .frame.exits import EXIT_INTERRUPTED, EXIT_PIPE, EXIT_TERMINATED, EXIT_USAGE, PROGRAM
from .frame.pipe import drop_stdout


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with `arguments`, by default those of the process, and exits.

    Raises:
        SystemExit: always, with 0 or one of the codes in `exits.py`.
    """
    raise SystemExit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> int:
    with _settings_file_restored(), _sigterm():
        try:
            code = _run_app(arguments)
            sys.stdout.flush()
        except KeyboardInterrupt:
            code = EXIT_INTERRUPTED
        except BrokenPipeError:
            drop_stdout()
            code = EXIT_PIPE
    if code == EXIT_INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return code


def _run_app(arguments: Sequence[str]) -> int:
    try:
        _check_libraries()
        from .app import app
    except MissingExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    # The report and the errors contain what matters, beside these warnings. Without a handler, Python prints all.
    logging.getLogger("lmcache_connect").addHandler(_TOLD)
    try:
        # Not standalone: that would print wrong arguments unchanged, and one may be a URL with a password.
        code = app(args=list(arguments), prog_name=PROGRAM, standalone_mode=False)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # older releases of typer raise their own Abort for it
            return EXIT_INTERRUPTED
        if not _is_usage_error(error):
            raise
        return _explain(error, "--json" in arguments)
    return code if isinstance(code, int) else 0


def _check_libraries() -> None:
    for needed in ("typer", "rich"):
        try:
            importlib.import_module(needed)
        except ImportError as missing:
            raise MissingExtraError(PROGRAM, missing.name or needed, "cli") from missing


class _Told(logging.Handler):
    """Prints the warnings that concern the person at the terminal, unless logging is set up, as `serve` does."""

    def emit(self, record: logging.LogRecord) -> None:
        facts = getattr(record, "connect", {})
        if facts.get("event") in {"secret_file_open_to_others", "unknown_variable"} and not logging.root.handlers:
            print(f"warning: {record.getMessage()}", file=sys.stderr)


_TOLD: Final = _Told(logging.WARNING)


@contextlib.contextmanager
def _settings_file_restored() -> Iterator[None]:
    """`--config` sets a variable. A program that calls `main` has its own value back afterwards."""
    before = os.environ.get(FILE_VARIABLE)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(FILE_VARIABLE, None)
        else:
            os.environ[FILE_VARIABLE] = before


@contextlib.contextmanager
def _sigterm() -> Iterator[None]:
    # By default the process would end at once, and leave the embedded server running and keys in the store.
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def _is_usage_error(error: Exception) -> bool:
    # By its attributes: the class is click's in older releases of typer, and a private copy in newer ones.
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _explain(error: Exception, as_json: bool) -> int:
    from .frame.output import print_json

    message = redact(str(error.format_message()))  # type: ignore[attr-defined]  # see _is_usage_error
    command = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
    if as_json:
        print_json({"ok": False, "error": {"type": type(error).__name__, "message": message}})
    print(f"error: {message}\ntry: {command} --help", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    main()
