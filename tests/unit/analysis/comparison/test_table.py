"""Numbers as text."""

import pytest

from openmm_scoremd.analysis.comparison.table import number, p_value_text


@pytest.mark.parametrize(
    ("value", "error", "shown", "alone"),
    [
        (-1.23456, 0.0123, "−1.235 ± 0.012", "−1.235"),
        (1234.5, 67.0, "1234 ± 67", "1234"),
        (0.1235, 0.0023, "0.1235 ± 0.0023", "0.1235"),
        (0.5, 0.0, "0.5", "0.5"),
        (float("nan"), 0.1, "–", "–"),
        (-0.25, float("nan"), "−0.25", "−0.25"),
    ],
)
def test_numbers(value, error, shown, alone):
    assert number(value, error) == shown
    assert number(value, error, with_error=False) == alone


@pytest.mark.parametrize(
    ("value", "shown"), [(0.123, "0.12"), (5e-5, "< 0.0001"), (float("nan"), "–"), (1.0, "1")]
)
def test_p_values(value, shown):
    assert p_value_text(value) == shown
