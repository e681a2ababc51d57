"""Recording functions as CUDA graphs."""

import pytest
import torch

from openmm_scoremd.cuda_graphs import captured

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


def test_captured_steps_do_what_they_do_uncaptured():
    state = [torch.zeros(3, device="cuda")]

    def step(vector, increment):
        vector.add_(increment)
        return vector.sum()

    replay = captured(step, state, [torch.ones(3, device="cuda")])
    assert float(state[0].sum()) == 0.0
    values = [torch.full((3,), value, device="cuda") for value in (1.0, 2.0)]
    assert [float(replay(state[0], value)) for value in values] == [3.0, 9.0]


def test_results_of_different_calls_are_different_tensors():
    square = captured(lambda x: (x * x, x + 1.0), [], [torch.zeros(2, device="cuda")])
    first = square(torch.tensor([1.0, 2.0], device="cuda"))
    second = square(torch.tensor([3.0, 4.0], device="cuda"))
    assert [v.tolist() for v in (*first, *second)] == [[1, 4], [2, 3], [9, 16], [4, 5]]


def test_what_waits_for_the_device_cannot_be_captured():
    with pytest.raises(RuntimeError):
        captured(lambda x: x * float(x.sum()), [], [torch.ones(2, device="cuda")])
