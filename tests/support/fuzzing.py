"""Sets the number of examples of the fuzzing tests. By default each run uses the same few examples. A variable requests
many new examples:

IRIS_FUZZ_EXAMPLES=20000 uv run pytest tests -k any
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

_EXAMPLES = os.environ.get("IRIS_FUZZ_EXAMPLES")


def fuzz(examples: int) -> Any:
    """Return the decorator of a fuzzing test.

    Args:
        examples: The number of examples, unless the environment variable is set.
    """
    return settings(
        max_examples=int(_EXAMPLES or examples),
        derandomize=_EXAMPLES is None,
        database=None,
        deadline=None,  # no test measures time
        suppress_health_check=list(HealthCheck),
    )
