"""Ends the process while it is imported, or would."""

import sys

sys.exit(7)
