"""How long the fuzzing tests look: the same few examples each time, and many new ones where that is asked for.

IRIS_FUZZ_EXAMPLES=20000 uv run pytest tests -k any
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

_EXAMPLES = os.environ.get("IRIS_FUZZ_EXAMPLES")


def fuzz(examples: int) -> Any:
    """The decorator of a fuzzing test.

    Args:
        examples: How many are tried where nothing else is asked for.
    """
    return settings(
        max_examples=int(_EXAMPLES or examples),
        derandomize=_EXAMPLES is None,
        database=None,
        deadline=None,  # no test measures time
        suppress_health_check=list(HealthCheck),
    )
