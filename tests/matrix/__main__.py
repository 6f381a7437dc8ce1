"""`python -m tests.matrix`: runs the matrix, and writes its page."""

from __future__ import annotations

from .command import main

if __name__ == "__main__":
    main()
