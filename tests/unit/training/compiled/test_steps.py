"""Compiled steps do what single steps do, and a run made of them can be stopped anywhere."""

import dataclasses
import shutil

import pytest
import torch

from openmm_scoremd.errors import InvalidInputError, NumericalError
from openmm_scoremd.training.checkpoint import gather_tensors, load_checkpoint
from openmm_scoremd.training.compiled.parallel_steps import Division
from openmm_scoremd.training.compiled.steps import FlatLayout
from openmm_scoremd.training.config import FokkerPlanckConfig
from openmm_scoremd.training.trainer import Trainer

CENTRED = FokkerPlanckConfig(
    alpha=0.1, estimator="centred", fraction=0.5, group_size=4, frames="spread"
)
REGIONAL = dataclasses.replace(
    CENTRED, frames="regions", times="log-noise", region_alpha=0.1, region_size=2
)
KINDS = {
    "denoising": {},
    "weak": {"fokker_planck": FokkerPlanckConfig(alpha=1e-3)},
    "centred": {"fokker_planck": CENTRED},
    "regional": {"fokker_planck": REGIONAL},
    "clipped": {"optimizer.gradient_clip": 1e-3, "optimizer.weight_decay": 0.3},
}
CALLS = Division(steps_per_call=10)
#: How the work of a step is divided: not, among two threads, up to three steps in a call.
DIVISIONS = {"whole": Division(), "parts": Division(parts=2), "calls": Division(steps_per_call=3)}
DOUBLE = {"hardware.precision": "64-true", "network.noise_floor": 0.05}


@pytest.fixture
def uncompiled(monkeypatch):
    """Leave the traced graph as it is, which is what the compiler starts from."""
    for module in ("objective", "compiled.steps"):
        monkeypatch.setattr(
            f"openmm_scoremd.training.{module}.compile_graph", lambda graph, _: graph
        )


def state_of(trainer):
    return gather_tensors(trainer.model, trainer.average, trainer.optimizer.optimizer)


def compare(found, expected, tolerance):
    # An additive constant of the energy has no gradient: single steps never look at it.
    constant = found.keys() - expected.keys()
    assert all(name.startswith("optimizer.") for name in constant)
    assert not any(found[name].any() for name in constant if "exp_avg" in name)
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m
        )


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    ("kind", "division"),
    [*((kind, "whole") for kind in KINDS), ("weak", "calls"), ("regional", "parts")],
)
def test_many_steps_are_as_many_single_steps(planar, make_config, tmp_path, kind, division):
    entries = {**DOUBLE, **KINDS[kind]}
    single = Trainer(make_config(planar, **entries), tmp_path / "a")
    many = Trainer(make_config(planar, **entries, **{"hardware.backend": "compiled"}), tmp_path)
    many.steps.division = DIVISIONS[division]
    assert single.steps is None
    for first, stop in ((0, 1), (1, 4), (4, 10), (10, 15)):
        row, expected = many.train_steps(first, stop), single.train_steps(first, stop)
        # Fabric hands out the loss of a single step in float32.
        assert row.loss == pytest.approx(expected.loss, rel=2e-7)
        assert row.learning_rate == expected.learning_rate
        # A bias without a gradient moves by rounding alone, which Adam makes larger.
        compare(state_of(many), state_of(single), 1e-9)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("division", DIVISIONS)
def test_every_loss_is_returned(planar, make_config, tmp_path, division):
    config = make_config(planar, **DOUBLE, **{"hardware.backend": "compiled"})
    together, apart = Trainer(config, tmp_path / "a"), Trainer(config, tmp_path / "b")
    together.steps.division = apart.steps.division = DIVISIONS[division]
    losses = together._compiled_steps(together.steps, 0, 6)
    expected = [apart._compiled_steps(apart.steps, step, step + 1) for step in range(6)]
    assert torch.equal(losses, torch.cat(expected))
    assert len(losses.unique()) == 6


@pytest.mark.usefixtures("uncompiled")
def test_single_steps_may_follow(planar, make_config, tmp_path):
    # State is kept where single steps and checkpoints look for it.
    mixed = Trainer(
        make_config(planar, **DOUBLE, **{"hardware.backend": "compiled"}), tmp_path / "a"
    )
    single = Trainer(make_config(planar, **DOUBLE), tmp_path / "b")
    mixed.train_steps(0, 3)
    mixed._train_step(3)
    mixed.train_steps(4, 6)
    single.train_steps(0, 6)
    compare(state_of(mixed), state_of(single), 1e-9)


@pytest.mark.usefixtures("uncompiled")
def test_parts_see_all_of_a_batch_once(planar, make_config, tmp_path, monkeypatch):
    trainer = Trainer(make_config(planar, **{"hardware.backend": "compiled"}), tmp_path)
    trainer.steps.division = Division(parts=4)
    seen = []
    monkeypatch.setattr(
        "openmm_scoremd.training.compiled.steps.compile_graph",
        lambda graph, _: lambda *arrays: (seen.append(arrays[2]), graph(*arrays))[1],
    )
    trainer.train_steps(0, 1)
    # The update, compiled likewise, has no times.
    times = torch.cat([t for t in seen if t.ndim == 1 and len(t) == trainer.config.batch_size // 4])
    assert torch.equal(times.sort().values, trainer.stream.batch(0).t.sort().values)


@pytest.mark.usefixtures("uncompiled")
def test_every_batch_needs_a_rate_and_every_rate_a_batch(planar, make_config, tmp_path):
    trainer = Trainer(make_config(planar, **{"hardware.backend": "compiled"}), tmp_path)
    batches = [trainer.stream.batch(step) for step in range(3)]
    with pytest.raises(InvalidInputError, match="4 learning rates were given and 3 batches"):
        trainer.steps.run(batches, [1e-3] * 4)
    with pytest.raises(InvalidInputError, match="2 learning rates were given and more batches"):
        trainer.steps.run(batches, [1e-3] * 2)


@pytest.mark.parametrize(("large", "division"), [(0, Division(parts=2)), (1e9, CALLS)])
def test_trainers_divide_their_steps(planar, make_config, tmp_path, monkeypatch, large, division):
    monkeypatch.setattr("openmm_scoremd.training.compiled.parallel_steps._LARGE", large)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trainer = Trainer(make_config(planar, **{"hardware.backend": "compiled"}), tmp_path)
    finally:
        torch.set_num_threads(before)
    assert trainer.steps.division == division


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("kind", ["denoising", "regional"])
def test_stopped_and_resumed_gives_the_same(
    planar, make_config, tmp_path, kind, assert_same_run, monkeypatch, killed
):
    # Rows every 3 of 25 steps: the last interval is shorter.
    entries = {"network.noise_floor": 0.05, "hardware.backend": "compiled", **KINDS[kind]}
    config = make_config(planar, **entries)
    Trainer(config, tmp_path / "straight").start()
    for stop in (6, 7, 20):
        trainer = Trainer(config, tmp_path / "killed")
        batch = trainer.stream.batch

        def die(step, stop=stop, batch=batch):
            if step == stop:
                raise killed
            return batch(step)

        monkeypatch.setattr(trainer.stream, "batch", die)
        with pytest.raises(killed):
            trainer.start() if stop == 6 else trainer.resume()
        assert load_checkpoint(tmp_path / "killed" / "checkpoint.safetensors").step == stop // 3 * 3
    Trainer(config, tmp_path / "killed").resume()
    assert_same_run(tmp_path / "killed", tmp_path / "straight")


@pytest.mark.usefixtures("uncompiled")
def test_log_intervals_change_nothing(planar, make_config, tmp_path, read_run):
    for n in (1, 4, 25):
        config = make_config(planar, log_steps=n, **{"hardware.backend": "compiled"})
        Trainer(config, tmp_path / str(n)).start()
    expected, _ = read_run(tmp_path / "25")
    for n in (1, 4):
        found, _ = read_run(tmp_path / str(n))
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("bad_step", [0, 7])
def test_nan_stops_with_its_step(planar, make_config, tmp_path, monkeypatch, bad_step):
    trainer = Trainer(make_config(planar, **{"hardware.backend": "compiled"}), tmp_path / "run")
    batch = trainer.stream.batch

    def poisoned(step):
        result = batch(step)
        if step >= bad_step:
            result.x0[3] = torch.nan
        return result

    monkeypatch.setattr(trainer.stream, "batch", poisoned)
    with pytest.raises(NumericalError, match=f"NaN or infinite loss at step {bad_step} "):
        trainer.start()
    state = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert state.step == bad_step // 3 * 3
    assert all(bool(torch.isfinite(v).all()) for v in state.tensors.values())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("division", DIVISIONS)
def test_compiled_run_is_that_of_single_steps(planar, make_config, tmp_path, read_run, division):
    entries = {**DOUBLE, **KINDS["centred"]}
    Trainer(make_config(planar, **entries), tmp_path / "eager").start()
    compiled = Trainer(
        make_config(planar, **entries, **{"hardware.backend": "compiled"}), tmp_path / "compiled"
    )
    compiled.steps.division = DIVISIONS[division]
    compiled.start()
    (found, _), (expected, _) = (read_run(tmp_path / name) for name in ("compiled", "eager"))
    compare(found, expected, 1e-7)


def test_flat_layout_gives_back_what_it_got():
    tensors = [torch.randn(3, 5), torch.randn(16), torch.randn(()), torch.randn(2, 2, 9)]
    layout = FlatLayout([t.shape for t in tensors])
    vector = layout.pack(tensors)
    assert vector.shape == (16 + 16 + 16 + 48,)
    found = layout.unpack(vector)
    assert all(torch.equal(a, b) for a, b in zip(found, tensors, strict=True))
    # Views, at aligned addresses.
    found[2].fill_(7.0)
    assert float(vector[32]) == 7.0
    assert float(vector[15]) == 0.0
