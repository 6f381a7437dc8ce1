"""The same as `hanging`, for another test: a module is imported once."""

from ..gate import OPEN

OPEN.wait(60)
