"""The loss of held-out frames: what it is of, when it is due, which weights are the best."""

import pytest
import torch

from openmm_scoremd.data.dataset import load_dataset, split_frames
from openmm_scoremd.diffusion.loss import denoising_score_matching_loss
from openmm_scoremd.training.held_out import HeldOutLoss, lowest_step
from openmm_scoremd.training.log import LogRow, read_log
from openmm_scoremd.training.setup import denoising_objective, held_out_batch
from openmm_scoremd.training.trainer import Trainer

CPU = torch.device("cpu")


def test_it_is_of_held_out_frames_and_the_averaged_weights(finished, planar, make_config):
    trainer, folder = finished
    config, dataset = make_config(planar), load_dataset(planar)
    _, held_out = split_frames(100, held_back_fraction=0.2, seed=config.seed)
    batch = held_out_batch(config, dataset, scale=dataset.scale, device=CPU)
    expected = torch.from_numpy(dataset.positions[held_out]) / dataset.scale
    found = batch.x0.flatten(1)
    assert torch.equal(found[found[:, 0].argsort()], sorted_rows(expected.flatten(1)))
    objective = denoising_objective(config, trainer.average.module)
    losses = denoising_score_matching_loss(
        trainer.average.module.score, config.schedule, batch.x0, t=batch.t, noise=batch.noise,
        weight=objective.weighting(batch.t),
    )  # fmt: skip
    assert read_log(folder / "log.csv")[-1].held_out_loss == pytest.approx(
        float(losses.detach().mean()), rel=1e-5
    )


def sorted_rows(rows):
    return rows[rows[:, 0].argsort()]


def test_without_held_out_frames_there_is_none(planar, make_config, tmp_path):
    Trainer(make_config(planar, **{"data.held_out_fraction": 0.0}), tmp_path / "run").start()
    assert {row.held_out_loss for row in read_log(tmp_path / "run/log.csv")} == {None}


@pytest.mark.parametrize(
    ("n_steps", "due"), [(10_000, [50, 100, 9_999]), (100, [10, 20, 50, 90, 100])]
)
def test_when_it_is_due(n_steps, due):
    held_out = HeldOutLoss(lambda x: x.mean(), FakeBatch(1.0))
    model = torch.nn.Linear(1, 1)
    for stop in (10, 20, 49, 50, 90, 99, 100, 9_999):
        if stop <= n_steps:
            given = held_out.after(model, first=stop - 1, stop=stop, n_steps=min(n_steps, 9_999))
            assert (given is not None) == (stop in due), stop


class FakeBatch:
    def __init__(self, value):
        self.arrays = (torch.tensor([value]),)


def test_the_best_weights_are_kept_and_restored():
    model, held_out = torch.nn.Linear(1, 1, bias=False), HeldOutLoss(None, FakeBatch(0.0))
    held_out.objective = lambda _: (model.weight - 3.0).square().mean()
    for step, weight in enumerate([1.0, 2.5, 4.0, 3.75]):
        torch.nn.init.constant_(model.weight, weight)
        loss = held_out.after(model, first=step, stop=step + 1, n_steps=4)
        assert loss == pytest.approx((weight - 3.0) ** 2)
    assert held_out.lowest == 0.25
    again = HeldOutLoss(None, FakeBatch(0.0))
    again.restore(held_out.tensors())
    assert (again.lowest, float(again.best["weight"])) == (0.25, 2.5)
    again.restore({})
    assert again.lowest == 0.25
    assert HeldOutLoss(None, None).tensors() == {}


def rows(losses):
    return [LogRow(10 * i, 0.0, 0.0, 0.0, 1.0, held_out_loss=loss) for i, loss in enumerate(losses)]


def test_where_it_begins_to_rise():
    falling = [1.0 / (1 + i) for i in range(100)]
    assert lowest_step(rows(falling)) is None
    noisy = [0.5 + 0.001 * (-1) ** i for i in range(100)]
    assert lowest_step(rows(noisy)) is None
    valley = [1.0 + ((i - 40) / 100) ** 2 for i in range(100)]
    assert lowest_step(rows(valley)) == pytest.approx(400, abs=10)
    assert lowest_step(rows([None] * 50)) is None
    assert lowest_step(rows(valley[:9])) is None
