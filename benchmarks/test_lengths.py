"""The script about lengths measures something, in both directions."""

import pytest
from lengths import ratios


@pytest.mark.parametrize("direction", ["inference", "training"])
def test_a_turn(direction):
    assert all(ratio > 0 for ratio in ratios("rnn", (16, 1, 8), direction, 1, 0))
