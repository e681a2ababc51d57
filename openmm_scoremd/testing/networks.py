"""Checks of a network by itself."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Collection
from typing import get_args

import torch
from torch import Tensor

from openmm_scoremd.diffusion.weighting import TimeWeighting
from openmm_scoremd.geometry import random_rotations
from openmm_scoremd.models.base import Invariance
from openmm_scoremd.models.families import network_config, network_family
from openmm_scoremd.testing.cases import NetworkCase, derivative, require, same
from openmm_scoremd.training.compiled.inductor import traced
from openmm_scoremd.training.objective import DenoisingObjective, value_and_gradients

#: Steps of finite differences: of coordinates and parameters, and of times relative to themselves.
_STEP, _STEPS_T = 1e-5, (1e-3, 1e-4)


def check_configuration(case: NetworkCase) -> None:
    """Read the configuration back from JSON, and load the weights into a network built from it."""
    record = json.loads(json.dumps(dataclasses.asdict(case.config)))
    require(network_config(record) == case.config, f"configuration: {record} reads otherwise")
    again = network_family(case.config.family).from_config(case.config, case.inputs).double()
    again.load_state_dict(case.model.state_dict())
    same(again.score(*case.arguments), case.score(), 1e-12, "weights: score")


def check_outputs(case: NetworkCase) -> None:
    """See that scores have shape and type of the samples, and gradients only where wanted."""
    x, expected = case.x.clone(), case.score()
    require(expected.shape == x.shape, f"outputs: the score has shape {tuple(expected.shape)}")
    require(expected.dtype == x.dtype, f"outputs: the score is of {expected.dtype}")
    require(expected.requires_grad, "outputs: the score has no gradient for training")
    with torch.no_grad():
        found = case.score()
    require(not found.requires_grad, "outputs: gradients are kept although they are off")
    same(found, expected, 1e-12, "outputs: score without gradients")
    unused = all(parameter.grad is None for parameter in case.model.parameters())
    require(unused and not case.x.requires_grad, "outputs: a gradient was left behind")
    require(torch.equal(x, case.x), "outputs: the samples were changed")
    if case.energy_model is not None:
        energy = case.energy_model.energy(*case.arguments)
        require(energy.shape == case.t.shape, f"outputs: energies have shape {tuple(energy.shape)}")


def check_batch(case: NetworkCase) -> None:
    """See that no sample changes what another one gives, not even one of NaN."""
    x, others = case.x.clone(), [0, *range(2, len(case.x))]
    x[1] = float("nan")
    functions = {"score": case.model.score}
    if case.energy_model is not None:
        functions["energy"] = case.energy_model.energy
    for name, function in functions.items():
        together = function(*case.arguments)
        for i in range(len(case.x)):
            alone = function(case.x[i : i + 1], case.t[i : i + 1], case.features)
            same(alone, together[i : i + 1], 1e-10, f"batch: {name} of sample {i} alone")
        beside = function(x, case.t, case.features)
        same(beside[others], together[others], 1e-10, f"batch: {name} beside NaN")


def check_times(case: NetworkCase) -> None:
    """See that times outside the range of the network are clipped to it, and times matter."""
    ends = case.model.t_min, case.model.t_max
    for outside, end in zip((0.0, 1.0), ends, strict=True):
        found, expected = (
            case.model.score(case.x, torch.full_like(case.t, t), case.features)
            for t in (outside, end)
        )
        same(found, expected, 1e-12, f"times: score at {outside}, clipped to {end},")
    elsewhere = case.model.score(case.x, torch.full_like(case.t, 0.5 * sum(ends)), case.features)
    require(not torch.equal(elsewhere, expected), "times: the score is the same at all times")


def check_invariances(case: NetworkCase) -> None:
    """Move samples by what the network says it is invariant to."""
    for name in sorted(case.model.invariances):
        require(name in get_args(Invariance), f"invariances: unknown {name!r}")
        same(*_moved_scores(case, name), 1e-9, f"invariances: score after {name}")
        if case.energy_model is not None:
            found, expected = (
                case.energy_model.energy(x, case.t, case.features)
                for x in (_moved(case.x, name), case.x)
            )
            same(found, expected, 1e-9, f"invariances: energy after {name}")
    if case.energy_model is not None and case.model.translation_invariant:
        score = case.score()
        same((score + score.sum(1, True)), score, 1e-9, "invariances: score with net force")


def check_lacks(case: NetworkCase, lacks: Collection[Invariance]) -> None:
    """See that each of the invariances that are named is none of this network's."""
    for name in lacks:
        found, expected = (score.detach() for score in _moved_scores(case, name))
        difference = (found - expected).abs().amax() / expected.abs().amax()
        require(float(difference) > 1e-6, f"lacks: {name} changes nothing")


def check_score(case: NetworkCase) -> None:
    """Compare the score with finite differences of the energy, in every coordinate."""
    model = case.energy_model
    if model is None:
        return
    n_coordinates = case.x[0].numel()
    directions = torch.eye(n_coordinates, dtype=torch.float64).view(-1, 1, *case.x.shape[1:])
    times = case.t.expand(n_coordinates, -1).flatten()

    def energies(step: float) -> Tensor:
        with torch.no_grad():
            moved = (case.x + step * directions).flatten(0, 1)
            return model.energy(moved, times, case.features).view(n_coordinates, -1)

    energy, score = model.energy_and_score(*case.arguments)
    same(energy, model.energy(*case.arguments), 1e-12, "score: energy beside it")
    expected = -derivative(energies, _STEP).T.reshape(case.x.shape)
    same(score, expected, 1e-6, "score: derivative of the energy")


def check_time_derivative(case: NetworkCase) -> None:
    """Compare the time derivative with finite differences; beyond the range it is zero."""
    model = case.energy_model
    if model is None:
        return

    def log_density(step: float) -> Tensor:
        with torch.no_grad():
            return -model.energy(case.x, case.t * (1.0 + step), case.features)

    score, found = model.score_and_time_derivative(*case.arguments)
    same(score, case.score(), 1e-12, "time derivative: score beside it")
    # Long steps where energies are large beside what changes, short ones where they change fast.
    differences = [derivative(log_density, step) / case.t for step in _STEPS_T]
    nearest = min(differences, key=lambda one: float((found - one).detach().abs().max()))
    same(found, nearest, 1e-6, "time derivative", least=1e-6)
    if model.t_max < 1.0:
        beyond = torch.full_like(case.t, 0.5 * (model.t_max + 1.0))
        _, outside = model.score_and_time_derivative(case.x, beyond, case.features)
        require(not bool(outside.any()), "time derivative: not zero beyond the range")


def check_parameter_gradients(case: NetworkCase) -> None:
    """Compare gradients of the score with respect to parameters with finite differences."""
    model, generator = copy.deepcopy(case.model), torch.Generator().manual_seed(3)
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    weight = _normal(case.x, generator) / case.score().detach().abs().amax((1, 2), keepdim=True)

    def loss() -> Tensor:
        return torch.sum(weight * model.score(*case.arguments))

    gradients = torch.autograd.grad(loss(), parameters, materialize_grads=True)
    for _ in range(3):
        directions = [_normal(parameter, generator) for parameter in parameters]

        def beside(step: float, directions: list[Tensor] = directions) -> Tensor:
            with torch.no_grad():
                torch._foreach_add_(parameters, directions, alpha=step)
                value = loss().view(1)
                torch._foreach_add_(parameters, directions, alpha=-step)
            return value

        terms = [(g * d).sum() for g, d in zip(gradients, directions, strict=True)]
        found = torch.stack(terms).sum().view(1)
        same(found, derivative(beside, _STEP), 1e-5, "parameter gradients", least=1e-3)


def check_coordinate_gradients(case: NetworkCase) -> None:
    """Compare gradients of the score with respect to coordinates with finite differences."""
    x, generator = case.x.clone().requires_grad_(), torch.Generator().manual_seed(4)
    weight, direction = _normal(x, generator), _normal(x, generator)
    score = case.model.score(x, case.t, case.features)
    (gradient,) = torch.autograd.grad((weight * score).sum(), x)

    def value(step: float) -> Tensor:
        moved = case.model.score(case.x + step * direction, case.t, case.features)
        return (weight * moved).detach().sum(dim=(1, 2))

    found = (gradient * direction).sum(dim=(1, 2))
    same(found, derivative(value, _STEP), 1e-5, "coordinate gradients")


def check_single_precision(case: NetworkCase) -> None:
    """Compare single with double precision; if shifts do not matter, also far from the origin."""
    single = copy.deepcopy(case.model).float()
    x, t = case.x.float(), case.t.float()
    same(single.score(x, t, case.features), case.score(), 2e-4, "single precision: score")
    if case.model.translation_invariant:
        # Coordinates with few bits, so that a shift by a power of two is exact.
        x = (x * 64.0).round() / 64.0
        near, far = (single.score(x + shift, t, case.features) for shift in (0.0, 4096.0))
        same(far, near, 2e-4, "single precision: score far from the origin")


def check_tracing(case: NetworkCase) -> None:
    """Trace the gradient of a loss, as it is done to compile a training step."""
    if case.features is not None:
        return  # Datasets hold no bead features yet, so there is no training with them.
    weighting = TimeWeighting(0.0, 1.0, 0.5)
    objective = DenoisingObjective(case.model, schedule=case.inputs.schedule, weighting=weighting)
    noise = _normal(case.x, torch.Generator().manual_seed(6))
    tensors = [case.x, case.t, noise, *(p.detach() for p in objective.parameters())]

    def step(*values: Tensor) -> list[Tensor]:
        return value_and_gradients(objective, values[:3], values[3:])

    for found, expected in zip(traced(step, tensors)(*tensors), step(*tensors), strict=True):
        same(found[None], expected[None], 1e-7, "tracing: loss or gradient", least=1e-6)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def _moved_scores(case: NetworkCase, name: Invariance) -> tuple[Tensor, Tensor]:
    """Return the score of moved samples, and what it is to be: the score, moved."""
    found = case.model.score(_moved(case.x, name), case.t, case.features)
    return found, case.score() if name == "translation" else _moved(case.score(), name)


def _moved(x: Tensor, name: Invariance) -> Tensor:
    n_dims = x.shape[2]
    if name == "translation":
        return x + torch.tensor([3.0, -2.0, 5.0], dtype=x.dtype)[:n_dims]
    if name == "reflection":
        return x * torch.tensor([-1.0, 1.0, 1.0], dtype=x.dtype)[:n_dims]
    if n_dims == 2:
        return x @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=x.dtype)
    generator = torch.Generator().manual_seed(5)
    return x @ random_rotations(1, generator=generator, dtype=x.dtype, device=x.device)[0]
