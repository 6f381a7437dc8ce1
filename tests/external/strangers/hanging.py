"""Does not end while it is imported, until the test lets it."""

from tests.external.gate import OPEN
from tests.external.strangers.minimal import MinimalConnector

__all__ = ["MinimalConnector"]

OPEN.wait(60)
