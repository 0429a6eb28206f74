"""How often a relay tries a source that does not have a log, or not yet."""

from __future__ import annotations

import pytest

from iris.cluster.controller.logs.relay import pause_s


def test_retry_pauses_of_the_relay_grow_up_to_a_limit() -> None:
    pauses = [pause_s(tries) for tries in range(12)]
    assert pauses == sorted(pauses)
    assert pauses[1] == pytest.approx(2 * pauses[0])
    assert pauses[-1] == pause_s(100_000) == 2.0
