"""The entry point. It imports typer and rich when it runs, so that it can name the extra where they are missing."""

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
        SystemExit: always, with 0 or one of the codes in `exits.py`.
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
    # The report and the errors contain what matters. Without a handler, Python prints warnings as well.
    logging.getLogger("lmcache_connect").addHandler(logging.NullHandler())
    try:
        # Not standalone: that would print wrong arguments unchanged, and one may be a URL with a password.
        code = app(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # older releases of typer raise their own Abort for it
            return EXIT_INTERRUPTED
        if not _is_usage_error(error):
            raise
        return _explain(error)
    return code if isinstance(code, int) else 0


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    # By default the process would end at once, and leave the embedded server running and keys in the store.
    raise SystemExit(EXIT_TERMINATED)


def _is_usage_error(error: Exception) -> bool:
    # By its attributes: the class is click's in older releases of typer, and a private copy in newer ones.
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _explain(error: Exception) -> int:
    message = redact(str(error.format_message()))  # type: ignore[attr-defined]  # see _is_usage_error
    command = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
    print(f"error: {message}\ntry: {command} --help", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    main()
