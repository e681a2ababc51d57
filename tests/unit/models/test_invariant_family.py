"""Invariant networks pass every check of a family."""

import pytest
import torch

from openmm_scoremd.models.config import NetworkInputs
from openmm_scoremd.models.invariant.network import InvariantConfig
from openmm_scoremd.testing import CHECKS, check_lacks, make_case
from openmm_scoremd.topology import BeadTopology


def make_frames(n_beads):
    generator = torch.Generator().manual_seed(0)
    chain = torch.arange(n_beads)[:, None] * torch.tensor([0.5, 0.3, -0.4])
    return chain + 0.3 * torch.randn(100, n_beads, 3, generator=generator)


def make_chain(n_beads):
    return BeadTopology(
        names=tuple(f"B{i}" for i in range(n_beads)),
        elements=("C",) * n_beads,
        residue_names=("TST",) * n_beads,
        residue_ids=(1,) * n_beads,
        chain_ids=("A",) * n_beads,
        masses=(12.0,) * n_beads,
        bonds=tuple((i, i + 1) for i in range(n_beads - 1)),
    )


@pytest.fixture(scope="module", params=[5, 8, 14], ids=["all volumes", "local", "windows"])
def case(request):
    n_beads = request.param
    inputs = NetworkInputs(n_beads=n_beads, n_dims=3, topology=make_chain(n_beads))
    return make_case(InvariantConfig(hidden_dim=12, layers=2), inputs, frames=make_frames(n_beads))


@pytest.mark.parametrize("name", CHECKS)
def test_family(case, name):
    CHECKS[name](case)


def test_mirror_images_differ(case):
    check_lacks(case, ["reflection"])
