"""The script about lengths measures something, in both passes."""

import pytest
from lengths import ratios


@pytest.mark.parametrize("work", ["inference", "training"])
def test_a_turn(work):
    assert all(ratio > 0 for ratio in ratios("rnn", (16, 1, 8), work, 1, 0))
