"""Weights and times of the loss: the published table, and distributions."""

import math

import pytest
import torch

from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.diffusion.weighting import BalancedTimes, TimeWeighting, UniformTimes
from openmm_scoremd.errors import InvalidInputError

#: Window, midpoint, weight below and above it (paper-facts, section 1).
PUBLISHED = {
    "molecules": (0.0, 1.0, 0.3, 1.667, 0.714),
    "Müller-Brown": (0.0, 1.0, 0.5, 1.0, 1.0),
    "expert high": (0.6, 1.0, 0.8, 1.0, 1.0),
    "expert mid": (0.1, 0.6, 0.35, 1.0, 1.0),
    "expert low, molecules": (0.0, 0.1, 0.03, 1.667, 0.714),
    "expert low, Müller-Brown": (0.0, 0.1, 0.05, 1.0, 1.0),
}


@pytest.fixture(params=PUBLISHED, ids=str)
def row(request):
    return PUBLISHED[request.param]


def test_published_weights(row):
    start, end, midpoint, below, above = row
    weighting = TimeWeighting(start, end, midpoint)
    around = [start, midpoint - 1e-6, midpoint + 1e-6, end]
    found = weighting(torch.tensor(around, dtype=torch.float64)).tolist()
    assert found == pytest.approx([below, below, above, above], rel=1e-3)


def test_each_side_gets_half_of_the_weight(row):
    start, end, midpoint, *_ = row
    weighting = TimeWeighting(start, end, midpoint)
    t = start + (end - start) * (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    weights = weighting(t) / 100_000
    assert float(weights[t <= midpoint].sum()) == pytest.approx(0.5, abs=1e-4)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-4)


def test_the_midpoint_itself_counts_as_below():
    assert float(TimeWeighting(0.0, 1.0, 0.25)(torch.tensor(0.25))) == 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_and_shape_are_those_of_the_times(dtype):
    found = TimeWeighting(0.0, 1.0, 0.3)(torch.tensor([[0.1, 0.9]], dtype=dtype))
    assert found.dtype == dtype
    assert found.shape == (1, 2)
    expected = torch.tensor([[1.0 / 0.6, 1.0 / 1.4]], dtype=dtype)
    torch.testing.assert_close(found, expected, rtol=2.0 * torch.finfo(dtype).eps, atol=0.0)


@pytest.mark.parametrize(
    ("start", "end", "midpoint"),
    [(0.0, 1.0, 0.0), (0.0, 1.0, 1.0), (0.5, 0.1, 0.3), (-0.1, 1.0, 0.3), (0.0, 1.1, 0.3),
     (0.0, 1.0, math.nan)],
)  # fmt: skip
def test_impossible_windows(start, end, midpoint):
    with pytest.raises(InvalidInputError, match=f"midpoint {midpoint}"):
        TimeWeighting(start, end, midpoint)


def test_uniform_times():
    found = UniformTimes(0.1, 0.6)(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([0.1, 0.35, 0.6])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("t_min", "t_max"), [(1e-5, 1.0), (1e-3, 0.5)])
def test_balanced_times(dtype, t_min, t_max):
    schedule, floor = VPSchedule(), 0.005
    uniform = torch.linspace(0.0, 1.0, 401, dtype=dtype)[:-1]
    t = BalancedTimes(schedule, floor, t_min, t_max)(uniform)
    assert t.dtype == dtype
    ends = torch.tensor([t_min, t_max], dtype=dtype)
    assert ((ends[0] <= t) & (t <= ends[1])).all()
    fractions = torch.arange(200, dtype=torch.float64) / 200
    early, late = t[:200].double(), t[200:].double()
    torch.testing.assert_close(early, t_min + (t_max - t_min) * fractions, rtol=1e-5, atol=1e-7)
    low, high = torch.log(schedule.sigma(ends.double()) ** 2 + floor**2)
    logarithm = torch.log(schedule.sigma(late) ** 2 + floor**2)
    torch.testing.assert_close(logarithm, low + (high - low) * fractions, rtol=0.0, atol=1e-4)
