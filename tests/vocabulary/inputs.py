"""How many inputs the property tests on secrets try: few in the suite, as many as you like by a variable.

SECRET_INPUTS=3000000 python -m pytest tests/vocabulary -k secret
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

VARIABLE: Final = "SECRET_INPUTS"


def inputs(usual: int) -> settings:
    """The settings of a property test that tries `usual` inputs, or as many as the variable says."""
    asked = os.environ.get(VARIABLE)
    return settings(
        max_examples=int(asked) if asked else usual,
        deadline=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
