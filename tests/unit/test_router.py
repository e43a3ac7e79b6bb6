from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.routing.router import pick


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(0, 1000))
def test_the_least_loaded_replica_is_chosen_whatever_the_turn(loads: list[int], turn: int) -> None:
    assert loads[pick(loads, turn)] == min(loads)


@given(st.integers(1, 10))
def test_equals_are_taken_in_turn(n: int) -> None:
    assert set(Counter(pick([0] * n, turn) for turn in range(n * 3)).values()) == {3}
