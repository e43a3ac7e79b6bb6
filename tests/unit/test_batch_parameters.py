"""What a batch transform job is told where it sets nothing itself."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from serving.frontend.app import batch_parameters


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 40), st.booleans())
@example(16, 999_999, False)
@example(16, 1, True)
@example(0, 1_999_999, False)
def test_megabytes_and_requests_are_what_the_platform_takes(capacity: int, max_body: int, single: bool) -> None:
    """A payload of 0 would mean any size to the platform."""
    told = json.loads(batch_parameters(capacity, max_body, single))
    megabytes, transforms = told["MaxPayloadInMB"], told["MaxConcurrentTransforms"]
    assert 1 <= megabytes <= 100
    assert transforms >= 1
    assert megabytes * transforms <= 100
    assert not max_body or megabytes * 1_000_000 <= max(max_body, 1_000_000)
