"""The entry point. It imports typer and rich only when it runs, so that it can say what to install."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from ..errors import MissingExtraError
from ..redaction import redact
from .exits import EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE, PROGRAM


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with `arguments`, by default those of the process, and exits.

    Raises:
        SystemExit: always. 0: done and verified; 1: something did not verify; 2: wrong usage, a bad URL, a store
            that cannot be used, or a package that is not installed; 130 and 143: interrupted and terminated.
    """
    raise SystemExit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        code = _run_app(arguments)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    if code == EXIT_INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return code


def _run_app(arguments: Sequence[str] | None) -> int:
    try:
        from .app import app
    except MissingExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    # Warnings of the library come as errors or in the report; without a handler they would be printed as well.
    logging.getLogger("lmcache_connect").addHandler(logging.NullHandler())
    try:
        # Not standalone: it would show wrong arguments as they are, and one of them may be a URL with a password.
        code = app(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # older releases of typer make their own Abort of it
            return EXIT_INTERRUPTED
        if not _is_usage_error(error):
            raise
        return _explain(error)
    return code if isinstance(code, int) else 0


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    # The default would end the process at once, leaving the embedded server and keys in the store behind.
    raise SystemExit(EXIT_TERMINATED)


def _is_usage_error(error: Exception) -> bool:
    # By its shape: the class is click's in older releases of typer, and a private copy of it in newer ones.
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _explain(error: Exception) -> int:
    message = redact(str(error.format_message()))  # type: ignore[attr-defined]  # see _is_usage_error
    command = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
    print(f"error: {message}\ntry: {command} --help", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    main()
