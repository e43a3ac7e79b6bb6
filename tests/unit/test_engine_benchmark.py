"""The engine's benchmark answers all that it asks, and measures the checkout that it is told to."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

with pytest.MonkeyPatch.context() as patch:
    # Scripts are run in their folder.
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    import engine

CHECKOUT = """
import sys

sys.stdout.write("1.5")
sys.exit()
"""


@pytest.mark.parametrize("size", [1, 3, 32])
def test_all_that_is_asked_is_answered(size: int) -> None:
    bench = engine.Bench(size)
    bench.answer(4)
    assert bench.answered == 4 * size
    assert 0 < bench.measure(rounds=2, requests=64) < 1e6


def test_another_checkout_is_measured_by_its_own_code(tmp_path: Path) -> None:
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "__init__.py").write_text(CHECKOUT)
    assert engine.measure_in(tmp_path, 1) == 1.5
