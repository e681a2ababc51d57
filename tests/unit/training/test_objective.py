"""Value and gradients of a batch: plain, traced into one graph, and compiled."""

import copy
import logging
import shutil

import pytest
import torch

from openmm_scoremd.diffusion.fokker_planck import (
    centred_fokker_planck_loss,
    regional_fokker_planck_loss,
    scaled_residuals,
    weak_residual,
)
from openmm_scoremd.diffusion.loss import denoising_score_matching_loss
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.diffusion.weighting import TimeWeighting
from openmm_scoremd.models.families import build_model
from openmm_scoremd.models.graph_transformer.network import GraphTransformerConfig
from openmm_scoremd.models.mlp import MLPConfig
from openmm_scoremd.training.objective import (
    Batch,
    CentredFokkerPlanckObjective,
    CompiledObjective,
    DenoisingObjective,
    WeakFokkerPlanckObjective,
    choose_objective,
)

SCHEDULE, WEIGHTING = VPSchedule(), TimeWeighting(0.0, 1.0, 0.3)
NETWORKS = {
    "graph": GraphTransformerConfig(hidden_dim=8, layers=1, heads=2, head_dim=4, noise_floor=0.01),
    "graph-direct": GraphTransformerConfig(
        hidden_dim=8, layers=1, heads=2, head_dim=4, output="direct"
    ),
    "mlp": MLPConfig(hidden_dims=(6,)),
}


#: What an objective needs beside a network: the regularisers have weights that make them count.
OBJECTIVES = {
    "denoising": (DenoisingObjective, {}),
    "weak": (WeakFokkerPlanckObjective, {"alpha": 0.02, "probe_sigma": 1e-3}),
    "centred": (
        CentredFokkerPlanckObjective,
        {
            "alpha": 50.0,
            "probe_sigma": 1e-3,
            "group_size": 2,
            "noise_floor": 0.01,
            "of_data": True,
        },
    ),
}
#: Networks and objectives that go together.
BOTH = [
    *((name, "denoising") for name in NETWORKS),
    *((name, kind) for name in ("graph", "mlp") for kind in ("weak", "centred")),
]


@pytest.fixture
def make_objective():
    def make(name="graph", kind="denoising", **entries):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build_model(NETWORKS[name], n_beads=3, n_dims=3).double()
        objective, settings = OBJECTIVES[kind]
        return objective(model, schedule=SCHEDULE, weighting=WEIGHTING, **{**settings, **entries})

    return make


def make_arrays(n=6, *, seed=0, kind="denoising"):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    x0, noise = torch.randn(2, n, 3, 3, **options)
    t = torch.rand(n, **options)
    if kind == "denoising":
        return x0, t, noise
    # Four frames with probes, two for each of two times.
    t[2:4] = t[:2]
    return x0, t, noise, torch.randn(2, 4, 3, 3, **options)


def value_and_gradients(objective, arrays, factor=1.0):
    objective.zero_grad()
    loss = objective(*arrays)
    (factor * loss).backward()
    gradients = {
        name.removeprefix("objective."): torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in objective.named_parameters()
    }
    return loss.detach(), gradients


@pytest.fixture
def uncompiled(monkeypatch):
    """Leave the traced graph as it is, which is what the compiler starts from."""
    for module in ("objective", "compiled.steps"):
        monkeypatch.setattr(
            f"openmm_scoremd.training.{module}.compile_graph", lambda graph, _: graph
        )


def test_another_layout_is_compiled_anew(make_objective, monkeypatch):
    # A compiled graph would read arrays of other strides wrongly, without a word.
    compiled = []

    def compile_graph(graph, examples):
        compiled.append([(array.shape, array.stride()) for array in examples])
        return graph

    monkeypatch.setattr("openmm_scoremd.training.objective.compile_graph", compile_graph)
    objective, arrays = CompiledObjective(make_objective()), make_arrays()
    turned = [array.transpose(0, -1).contiguous().transpose(0, -1) for array in arrays]
    losses = [float(objective(*chosen).detach()) for chosen in (arrays, turned, arrays, turned)]
    assert losses == pytest.approx([losses[0]] * 4)
    assert len(compiled) == 2
    assert compiled[0] != compiled[1]


def test_loss_is_the_mean_over_the_batch(make_objective):
    objective = make_objective()
    x0, t, noise = make_arrays()
    losses = denoising_score_matching_loss(
        objective.model.score, SCHEDULE, x0, t=t, noise=noise, weight=WEIGHTING(t)
    )
    torch.testing.assert_close(objective(x0, t, noise), losses.mean())
    assert objective(x0, t, noise).shape == ()


def test_weak_regulariser_is_the_weighted_square_per_coordinate(make_objective):
    objective = make_objective(kind="weak")
    x0, t, noise, probes = make_arrays(kind="weak")
    assert len(set((t[:4] <= 0.3).tolist())) == 2  # both weights
    first, second = weak_residual(
        objective.model.score_and_time_derivative,
        SCHEDULE,
        SCHEDULE.noise_sample(x0, t, noise)[:4],
        t[:4],
        probes=probes,
        probe_sigma=1e-3,
    )
    expected = 0.02 * (WEIGHTING(t[:4]) * first * second).mean() / 9**2
    found = objective(x0, t, noise, probes) - make_objective()(x0, t, noise)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    assert abs(float(found.detach())) > 1e-3


def test_centred_regulariser_is_the_weighted_mean_over_times(make_objective):
    objective = make_objective(kind="centred")
    x0, t, noise, probes = make_arrays(kind="centred")
    assert len(set((t[:2] <= 0.3).tolist())) == 2  # both weights
    x, model = SCHEDULE.noise_sample(x0, t, noise)[:4], objective.model
    score, time_derivative = model.score_and_time_derivative(x, t[:4])
    pairs = scaled_residuals(
        SCHEDULE,
        x,
        t[:4],
        score=score,
        time_derivative=time_derivative,
        probed_scores=torch.stack([model.score(x + 1e-3 * v, t[:4]) for v in probes]),
        probes=probes,
        probe_sigma=1e-3,
        noise_floor=0.01,
    )
    losses = centred_fokker_planck_loss(pairs, group_size=2) / 9**2
    expected = 50.0 * (WEIGHTING(t[:2]) * losses).mean()
    found = objective(x0, t, noise, probes) - make_objective()(x0, t, noise)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    assert abs(float(found.detach())) > 1e-3

    # Four frames of one time in two regions.
    t = t.clone()
    t[:4] = 0.2
    plain = make_objective(kind="centred", group_size=4)
    regional = make_objective(kind="centred", group_size=4, region_alpha=70.0, region_size=2)
    pairs = scaled_residuals(
        SCHEDULE,
        x := SCHEDULE.noise_sample(x0, t, noise)[:4],
        t[:4],
        score=(both := model.score_and_time_derivative(x, t[:4]))[0],
        time_derivative=both[1],
        probed_scores=torch.stack([model.score(x + 1e-3 * v, t[:4]) for v in probes]),
        probes=probes,
        probe_sigma=1e-3,
        noise_floor=0.01,
    )
    loss = regional_fokker_planck_loss(pairs, group_size=4, region_size=2)[0] / 9**2
    found = regional(x0, t, noise, probes) - plain(x0, t, noise, probes)
    expected = 70.0 * WEIGHTING(t[:1])[0] * loss
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    assert abs(float(found.detach())) > 1e-3


@pytest.mark.parametrize("kind", ["weak", "centred"])
def test_without_weight_only_denoising_remains(make_objective, kind):
    arrays = make_arrays(kind=kind)
    expected = make_objective()(*arrays[:3])
    torch.testing.assert_close(make_objective(kind=kind, alpha=0.0)(*arrays), expected)


def test_spread_frames_have_no_part_in_denoising(make_objective):
    x0, t, noise, probes = make_arrays(kind="centred")
    both = make_objective(kind="centred")(x0, t, noise, probes)
    regulariser = both - make_objective()(x0, t, noise)
    found = make_objective(kind="centred", of_data=False)(x0, t, noise, probes)
    expected = make_objective()(x0[4:], t[4:], noise[4:]) + regulariser
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert abs(float((found - both).detach())) > 1e-3


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_mean_over_processes_is_the_loss_of_one(make_objective, kind, world_size):
    generator = torch.Generator().manual_seed(5)
    options = {"generator": generator, "dtype": torch.float64}
    x0, noise = torch.randn(2, 36, 3, 3, **options)
    t, probes = torch.rand(36, **options), torch.randn(2, 24, 3, 3, **options)
    t[:24] = t[:6].repeat(4)  # as BatchStream does
    batch = Batch(x0, t, noise, None if kind == "denoising" else probes)
    entries = {"group_size": 4} if kind == "centred" else {}
    objective = make_objective("mlp", kind, **entries)
    expected = value_and_gradients(objective, batch.arrays)
    parts = [
        value_and_gradients(objective, batch.part(rank, world_size).arrays)
        for rank in range(world_size)
    ]
    loss = sum(part[0] for part in parts) / world_size
    gradients = {name: sum(part[1][name] for part in parts) / world_size for name in expected[1]}
    torch.testing.assert_close((loss, gradients), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_gradients_are_finite_differences(make_objective, kind):
    objective = make_objective(kind=kind)
    arrays = make_arrays(kind=kind)
    _, gradients = value_and_gradients(objective, arrays)
    parameters = dict(objective.named_parameters())
    generator = torch.Generator().manual_seed(4)
    direction = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for name, p in parameters.items()
    }
    step = 1e-6
    values = []
    for sign in (1, -2, 1):  # forth, to the other side, and back
        with torch.no_grad():
            for name, p in parameters.items():
                p += sign * step * direction[name]
        values.append(objective(*arrays).detach())
    expected = (values[0] - values[1]) / (2.0 * step)
    found = sum((gradients[name] * direction[name]).sum() for name in parameters)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(("name", "kind"), BOTH)
def test_traced_graph_has_value_and_gradients_of_the_plain_loss(make_objective, name, kind):
    plain = make_objective(name, kind)
    traced = CompiledObjective(copy.deepcopy(plain))
    # Attention has another form in there, and probes magnify rounding.
    tolerance = 1e-10 if kind == "denoising" else 1e-8
    for seed in (0, 1, 2):  # the graph is reused: nothing of the first batch may be baked in
        arrays = make_arrays(seed=seed, kind=kind)
        expected, found = (value_and_gradients(o, arrays) for o in (plain, traced))
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=1e-2 * tolerance)
    # Nor of the first weights.
    with torch.no_grad():
        for objective in (plain, traced):
            for p in objective.parameters():
                p *= 1.1
    expected, found = (value_and_gradients(o, arrays) for o in (plain, traced))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=1e-2 * tolerance)


@pytest.mark.usefixtures("uncompiled")
def test_other_shapes_are_traced_anew(make_objective):
    plain = make_objective()
    traced = CompiledObjective(copy.deepcopy(plain))
    for n in (6, 4, 6):
        arrays = make_arrays(n)
        expected, found = (value_and_gradients(o, arrays) for o in (plain, traced))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("uncompiled")
def test_precomputed_gradients_scale_with_what_comes_after(make_objective):
    traced = CompiledObjective(make_objective())
    arrays = make_arrays()
    _, once = value_and_gradients(traced, arrays)
    _, thrice = value_and_gradients(traced, arrays, factor=3.0)
    torch.testing.assert_close(thrice, {name: 3.0 * g for name, g in once.items()})
    # And they accumulate.
    traced.zero_grad()
    for _ in range(2):
        traced(*arrays).backward()
    found = {n.removeprefix("objective."): p.grad for n, p in traced.named_parameters()}
    torch.testing.assert_close(found, {name: 2.0 * g for name, g in once.items()})


@pytest.mark.usefixtures("uncompiled")
def test_every_parameter_gets_a_gradient(make_objective):
    # The additive constant of the energy, too: processes that average gradients expect them all.
    traced = CompiledObjective(make_objective("mlp"))
    traced(*make_arrays()).backward()
    assert all(p.grad is not None for p in traced.parameters())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("name", "kind"), [("graph", "denoising"), ("mlp", "weak"), ("mlp", "centred")]
)
def test_compiled_graph_has_value_and_gradients_of_the_plain_loss(make_objective, name, kind):
    plain = make_objective(name, kind)
    compiled = CompiledObjective(copy.deepcopy(plain))
    for seed in (0, 1):
        arrays = make_arrays(seed=seed, kind=kind)
        expected, found = (value_and_gradients(o, arrays) for o in (plain, compiled))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("backend", "compiler", "expected"),
    [
        ("eager", True, DenoisingObjective),
        ("compiled", False, CompiledObjective),
        ("auto", True, CompiledObjective),
        ("auto", False, DenoisingObjective),
    ],
)
def test_choice_of_backend(make_objective, monkeypatch, caplog, backend, compiler, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if compiler else None)
    with caplog.at_level(logging.INFO):
        chosen = choose_objective(make_objective("mlp"), backend=backend)
    assert type(chosen) is expected
    assert ("training backend" in caplog.text) == (backend == "auto")
