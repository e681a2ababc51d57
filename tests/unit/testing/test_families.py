"""Every network of ours passes the checks that any family of networks has to pass."""

import pytest

from openmm_scoremd import testing
from openmm_scoremd.models.base import EnergyModel, ScoreModel
from openmm_scoremd.models.families import family_names, network_family

GRAPHS = [
    "graph", "graph-one-layer", "graph-three-layers", "graph-high-times", "graph-types",
    "graph-noise-level", "graph-noise-level-high-times",
]  # fmt: skip
PERCEPTRONS = ["mlp", "mlp-beads", "mlp-noise-level", "mlp-noise-level-high-times"]
OUTPUTS = ["conservative", "direct"]
#: These compile something, so some networks must do.
LONG = {"tracing", "scripted_score", "model_file", "forces"}
COMPILED = ["graph-one-layer", "graph-noise-level", "mlp", "mlp-beads"]


@pytest.fixture(scope="module")
def case(request, make_case):
    name, output = request.param
    return make_case(name, output=output)


@pytest.mark.parametrize("check", sorted(testing.CHECKS.keys() - LONG))
@pytest.mark.parametrize(
    "case", [(n, o) for n in GRAPHS + PERCEPTRONS for o in OUTPUTS], indirect=True, ids="-".join
)
def test_network(case, check):
    testing.CHECKS[check](case)


@pytest.mark.parametrize("check", sorted(LONG))
@pytest.mark.parametrize(
    "case",
    [*((n, "conservative") for n in COMPILED), ("graph-one-layer", "direct"), ("mlp", "direct")],
    indirect=True,
    ids="-".join,
)
def test_compiled(case, check):
    testing.CHECKS[check](case)


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_is_not_built_in(make_case, output):
    # The published network sees raw displacements; it learns rotations from rotated data.
    testing.check_lacks(make_case("graph", output=output), ["rotation", "reflection"])
    of_mlp = ["translation", "rotation", "reflection"]
    testing.check_lacks(make_case("mlp-beads", output=output), of_mlp)


def test_every_network_is_tested(make_case):
    def all_subclasses(kind):
        return {kind}.union(*(all_subclasses(child) for child in kind.__subclasses__()))

    for name in family_names():
        network_family(name)
    concrete = {k for k in all_subclasses(ScoreModel) - {EnergyModel} if not k.__abstractmethods__}
    ours = {k.__name__ for k in concrete if k.__module__.startswith("openmm_scoremd.models")}
    cases = [make_case(name, output=o) for name in GRAPHS + PERCEPTRONS for o in OUTPUTS]
    # A mixture is a network of none of the families; the last one has tests/unit/models.
    elsewhere = {"TimePartitionedMixture", "InvariantEnergy"}
    assert {type(case.model).__name__ for case in cases} == ours - elsewhere
