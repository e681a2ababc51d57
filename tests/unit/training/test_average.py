"""The average of the weights is one over about 1 / (1 - decay) steps, and starts short."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from openmm_scoremd.training.average import exponential_average


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
