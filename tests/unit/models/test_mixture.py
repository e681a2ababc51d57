"""Mixtures over diffusion time: who serves which time, and that nobody else is asked."""

import dataclasses
import math

import pytest
import torch

from openmm_scoremd.errors import ConfigurationError, InvalidInputError
from openmm_scoremd.models.base import ScoreModel
from openmm_scoremd.models.mixture import (
    Expert,
    TimePartitionedMixture,
    check_partition,
    network_at,
)

#: Just before and just after a time.
BEFORE, AFTER = -math.inf, math.inf


class Constant(ScoreModel):
    """Score of one number; keeps the times of every call."""

    def __init__(self, value, *, n_beads=2, n_dims=3, t_min=0.0, t_max=1.0, invariant=True):
        super().__init__(n_beads=n_beads, n_dims=n_dims, t_min=t_min, t_max=t_max)
        self.value = value
        self.invariances = frozenset({"translation"} if invariant else ())
        self.asked = []

    def score(self, x, t, features=None):
        self.asked.append(t.tolist())
        shift = 0.0 if features is None else features.double().mean(dim=(-2, -1)).view(-1, 1, 1)
        return torch.full_like(x, self.value) + shift


INTERVALS = [(1e-5, 0.1), (0.1, 0.6), (0.6, 1.0)]


@pytest.fixture
def experts():
    return [Expert(Constant(float(i)), *times) for i, times in enumerate(INTERVALS)]


@pytest.fixture
def mixture(experts):
    return TimePartitionedMixture([experts[1], experts[2], experts[0]])


def scores(mixture, times):
    """First number of the score at each of the times."""
    times = torch.as_tensor(times, dtype=torch.float64)
    return mixture.score(torch.zeros(len(times), 2, 3, dtype=torch.float64), times)[:, 0, 0]


# --- Who serves a time -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "index"),
    [
        (1e-5, 0),
        (0.05, 0),
        (math.nextafter(0.1, BEFORE), 0),
        (0.1, 0),  # shared: the earlier one
        (math.nextafter(0.1, AFTER), 1),
        (0.3, 1),
        (0.6, 1),
        (math.nextafter(0.6, AFTER), 2),
        (1.0, 2),
    ],
)
def test_every_time_has_one_network(mixture, t, index):
    assert mixture.expert_at(t) is mixture.networks[index]
    assert network_at(mixture, t) is mixture.networks[index]
    assert scores(mixture, [t]).tolist() == [float(index)]


def test_experts_are_ordered_by_time(mixture, experts):
    assert mixture.networks == [expert.model for expert in experts]
    assert mixture.boundaries == (0.1, 0.6)
    assert (mixture.t_min, mixture.t_max) == (1e-5, 1.0)
    assert (mixture.n_beads, mixture.n_dims) == (2, 3)


def test_mixed_times_in_one_batch(mixture):
    times = torch.tensor([0.9, 0.05, 0.3, 0.1, 0.61, 0.05], dtype=torch.float64)
    assert scores(mixture, times).tolist() == [2.0, 0.0, 1.0, 0.0, 2.0, 0.0]
    # Each network gets its own frames, in their order.
    asked = [network.asked for network in mixture.networks]
    assert asked == [[[0.05, 0.1, 0.05]], [[0.3]], [[0.9, 0.61]]]


def test_only_the_network_that_serves_a_time_is_asked(mixture):
    scores(mixture, [0.3, 0.5])
    # Not even with no frames: a call costs time, whatever is in it.
    assert [network.asked for network in mixture.networks] == [[], [[0.3, 0.5]], []]


def test_frames_keep_their_place(make_case):
    low, high = make_case("graph"), make_case("graph", output="direct")
    mixture = TimePartitionedMixture([Expert(low.model, 0.0, 0.3), Expert(high.model, 0.3, 1.0)])
    x, t = torch.cat([low.x, 0.5 * low.x]), torch.linspace(0.99, 0.01, 8).double()
    found = mixture.score(x, t)
    for i in range(8):
        network = low.model if t[i] <= 0.3 else high.model
        expected = network.score(x[i : i + 1], t[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_and_borders_are_rounded_like_the_times(experts, dtype):
    # 0.1 and 1e-5 in float32 are other numbers than in float64.
    mixture = TimePartitionedMixture(experts)
    t = torch.tensor([1e-5, 0.1, 0.6, 1.0], dtype=dtype)
    found = mixture.score(torch.zeros(4, 2, 3, dtype=dtype), t)
    assert found.dtype == dtype
    assert found[:, 0, 0].tolist() == [0.0, 0.0, 1.0, 2.0]


def test_gradients_are_those_of_the_networks(make_case):
    low, high = make_case("mlp"), make_case("mlp-noise-level")
    mixture = TimePartitionedMixture([Expert(low.model, 0.0, 0.5), Expert(high.model, 0.5, 1.0)])
    t = torch.tensor([0.2, 0.8, 0.4, 0.9]).double()

    def gradients(score):
        mixture.zero_grad()
        x = low.x.clone().requires_grad_()
        score(x).square().sum().backward()
        return [x.grad, *(p.grad for p in mixture.parameters() if p.grad is not None)]

    def one_by_one(x):
        networks = [low.model, high.model, low.model, high.model]
        return torch.cat([n.score(x[[i]], t[[i]]) for i, n in enumerate(networks)])

    found = gradients(lambda x: mixture.score(x, t))
    torch.testing.assert_close(found, gradients(one_by_one), rtol=1e-9, atol=1e-9)
    # All but the additive constants of the energies.
    assert len(found) == 1 + len(list(mixture.parameters())) - 2


@pytest.mark.parametrize("of_frame", [False, True])
def test_bead_features_go_with_their_frames(experts, of_frame):
    mixture = TimePartitionedMixture(experts)
    features = torch.arange(3)[:, None, None].expand(3, 2, 4) if of_frame else torch.ones(2, 4)
    x, t = torch.zeros(3, 2, 3).double(), torch.tensor([0.9, 0.05, 0.3]).double()
    found = mixture.score(x, t, features)[:, 0, 0].tolist()
    assert found == ([2.0, 1.0, 3.0] if of_frame else [3.0, 1.0, 2.0])


@pytest.mark.parametrize("invariant", [[True, True, True], [True, False, True]])
def test_invariant_only_if_all_are(invariant):
    experts = [
        Expert(Constant(0.0, invariant=flag), *times)
        for flag, times in zip(invariant, INTERVALS, strict=True)
    ]
    assert TimePartitionedMixture(experts).translation_invariant == all(invariant)


# --- Times that nobody serves ----------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 9e-6, 1.01, -0.5])
def test_times_outside_every_expert(mixture, t):
    with pytest.raises(InvalidInputError, match=rf"time {t} .*they serve \[1e-05, 1.0\]"):
        mixture.expert_at(t)
    with pytest.raises(InvalidInputError, match=r"outside every expert; they serve \[1e-05, 1.0\]"):
        scores(mixture, [0.3, t])
    assert not any(network.asked for network in mixture.networks)


def test_a_time_that_is_no_number(mixture):
    with pytest.raises(InvalidInputError, match="nan"):
        mixture.expert_at(math.nan)


def test_single_networks_serve_their_range():
    network = Constant(0.0, t_min=0.1, t_max=0.6)
    for t in (0.1, 0.3, 0.6):
        assert network_at(network, t) is network
    for t in (0.09, 0.61, math.nan):
        with pytest.raises(InvalidInputError, match=r"takes diffusion times 0\.1 to 0\.6"):
            network_at(network, t)


# --- What cannot be combined -----------------------------------------------------------------


def mixture_of(*intervals):
    return TimePartitionedMixture([Expert(Constant(0.0), *times) for times in intervals])


@pytest.mark.parametrize(
    ("intervals", "match"),
    [
        ([(0.0, 0.3), (0.4, 1.0)], r"\[0.0, 0.3\] and \[0.4, 1.0\] leave a gap"),
        ([(0.4, 1.0), (0.0, 0.3)], r"\[0.0, 0.3\] and \[0.4, 1.0\] leave a gap"),
        ([(0.0, 0.5), (0.4, 1.0)], r"\[0.0, 0.5\] and \[0.4, 1.0\] overlap"),
        ([(0.0, 1.0), (0.4, 0.6)], r"overlap"),
        ([(0.0, 1.0), (0.0, 1.0)], r"overlap"),
        ([(0.0, 0.3), (math.nextafter(0.3, AFTER), 1.0)], "leave a gap"),
        ([], "at least one expert"),
    ],
)
def test_intervals_that_are_no_partition(intervals, match):
    with pytest.raises(ConfigurationError, match=match):
        mixture_of(*intervals)
    with pytest.raises(ConfigurationError, match=match):
        check_partition(sorted(intervals))


def test_one_expert_is_a_mixture():
    mixture = mixture_of((0.1, 0.9))
    assert (mixture.t_min, mixture.t_max, mixture.boundaries) == (0.1, 0.9, ())
    assert scores(mixture, [0.1, 0.9]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "times", [(0.5, 0.5), (0.6, 0.2), (0.05, 0.5), (0.2, 0.7), (math.nan, 0.5), (0.2, math.nan)]
)
def test_intervals_that_an_expert_cannot_serve(times):
    with pytest.raises(ConfigurationError, match=r"must not be empty.* range \[0.1, 0.6\]"):
        Expert(Constant(0.0, t_min=0.1, t_max=0.6), *times)


@pytest.mark.parametrize("change", [{"n_beads": 3}, {"n_dims": 2}, {"n_beads": None}])
def test_networks_of_different_molecules(experts, change):
    other = dataclasses.replace(experts[1], model=Constant(1.0, **change))
    with pytest.raises(ConfigurationError, match="different molecules"):
        TimePartitionedMixture([experts[0], other, experts[2]])
