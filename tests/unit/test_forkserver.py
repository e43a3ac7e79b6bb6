"""What the fork server settles for all model workers before torch is there."""

from __future__ import annotations

import pytest

from serving.worker.forkserver import SPINS, set_wait_policy


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": SPINS}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_threads_spin_for_a_moment_unless_the_environment_says_how_they_wait(
    given: dict[str, str], expected: dict[str, str]
) -> None:
    environment = dict(given)
    set_wait_policy(environment)
    assert environment == expected
