"""The average of the weights is one over about 1 / (1 - decay) steps, and starts short."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from openmm_scoremd.training.checkpoint import gather_tensors, restore_tensors
from openmm_scoremd.training.ema import exponential_average


def averages_of(values, decay):
    model = nn.Linear(1, 1, bias=False)
    average = AveragedModel(model, multi_avg_fn=exponential_average(decay))
    found = []
    for value in values:
        with torch.no_grad():
            model.weight.fill_(value)
        average.update_parameters(model)
        found.append(float(average.module.weight.detach()))
    return found


def test_first_values_by_hand():
    # The first is taken as it is; then the decays are 2/11 and 3/12.
    found = averages_of([4.0, 15.0, 1.0], decay=0.999)
    second = 2 / 11 * 4.0 + 9 / 11 * 15.0
    assert found == pytest.approx([4.0, second, 0.25 * second + 0.75 * 1.0], rel=1e-6)


def test_small_decays_are_reached_at_once():
    found = averages_of([1.0, 2.0, 3.0, 4.0], decay=0.1)
    assert found == pytest.approx([1.0, 1.9, 2.89, 3.889], rel=1e-6)


def test_final_decay():
    # After thousands of zeros, ones come in with the final decay.
    found = averages_of([0.0] * 2000 + [1.0] * 50, decay=0.98)
    assert found[-50:] == pytest.approx([1.0 - 0.98**n for n in range(1, 51)], rel=1e-4)


def test_no_averaging():
    assert averages_of([1.0, 5.0, 2.0], decay=0.0) == [1.0, 5.0, 2.0]


class Run:
    """A weight that takes given values, and its average."""

    def __init__(self):
        self.model = nn.Linear(1, 1, bias=False)
        self.average = AveragedModel(self.model, multi_avg_fn=exponential_average(0.999))
        self.optimizer = torch.optim.AdamW(self.model.parameters())

    def go_on(self, values):
        for value in values:
            with torch.no_grad():
                self.model.weight.fill_(value)
            self.average.update_parameters(self.model)
        return float(self.average.module.weight.detach())


def test_a_resumed_average_goes_on_where_it_was():
    first, rest = [4.0, 15.0, 1.0, 8.0], [3.0, -2.0, 7.0]
    stopped, resumed, uninterrupted = Run(), Run(), Run()
    stopped.go_on(first)
    tensors = gather_tensors(stopped.model, stopped.average, stopped.optimizer)
    restore_tensors(tensors, resumed.model, resumed.average, resumed.optimizer)
    expected = uninterrupted.go_on(first + rest)
    assert resumed.go_on(rest) == expected
    # Neither an average begun anew nor one that warms up a second time.
    assert Run().go_on(rest) != pytest.approx(expected, rel=1e-3)
    forgetful = Run()
    restore_tensors(tensors, forgetful.model, forgetful.average, forgetful.optimizer)
    forgetful.average.n_averaged.fill_(1)
    assert forgetful.go_on(rest) != pytest.approx(expected, rel=1e-3)
