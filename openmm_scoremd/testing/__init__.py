"""Checks that every family of networks has to pass: ours, and those of other packages.

One call runs them all and raises ``AssertionError`` with what is wrong::

    from openmm_scoremd.testing import check_family

    check_family(SpringsConfig(stiffness=3.0), n_beads=5, n_dims=3)

With pytest, each check as a test of its own::

    @pytest.fixture(scope="module")
    def case():
        return make_case(SpringsConfig(stiffness=3.0), NetworkInputs(n_beads=5, n_dims=3))


    @pytest.mark.parametrize("name", CHECKS)
    def test_springs(case, name):
        CHECKS[name](case)

Networks are checked in double precision with parameters drawn at random around their first values,
because fresh biases are zero, which hides mistakes; on frames that are noised to diffusion times
from the smallest to the largest that the network sees.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from torch import Tensor

from openmm_scoremd.models.base import Invariance
from openmm_scoremd.models.config import NetworkConfig, NetworkInputs
from openmm_scoremd.testing import files, networks
from openmm_scoremd.testing.cases import NetworkCase, make_case
from openmm_scoremd.testing.networks import check_lacks
from openmm_scoremd.topology import BeadTopology

__all__ = ["CHECKS", "NetworkCase", "check_family", "check_lacks", "make_case"]

#: All checks by name; each takes a :class:`NetworkCase`, and passes where it does not apply.
CHECKS: Final[Mapping[str, Callable[[NetworkCase], None]]] = {
    "configuration": networks.check_configuration,
    "outputs": networks.check_outputs,
    "batch": networks.check_batch,
    "times": networks.check_times,
    "invariances": networks.check_invariances,
    "score": networks.check_score,
    "time_derivative": networks.check_time_derivative,
    "parameter_gradients": networks.check_parameter_gradients,
    "coordinate_gradients": networks.check_coordinate_gradients,
    "single_precision": networks.check_single_precision,
    "tracing": networks.check_tracing,
    "scripted_score": files.check_scripted_score,
    "fixed_time": files.check_fixed_time,
    "model_file": files.check_model_file,
    "forces": files.check_forces,
}


def check_family(
    config: NetworkConfig,
    *,
    n_beads: int,
    n_dims: int,
    topology: BeadTopology | None = None,
    frames: Tensor | None = None,
    lacks: Collection[Invariance] = (),
) -> None:
    """Run every check on networks of one configuration.

    Parameters
    ----------
    config : NetworkConfig
        The configuration; small sizes make it quick and find as much.
    n_beads, n_dims : int
        Shape of the samples.
    topology : BeadTopology, optional
        The beads, for networks that depend on them.
    frames : Tensor, shape (frames, n_beads, n_dims), optional
        See :func:`make_case`.
    lacks : collection of {"translation", "rotation", "reflection"}
        What must change an energy.

    Raises
    ------
    AssertionError
        With the name of the first check that fails, and by how much.
    ConfigurationError
        If the family cannot treat such samples.
    """
    inputs = NetworkInputs(n_beads, n_dims, topology=topology)
    case = make_case(config, inputs, frames=frames)
    for check in CHECKS.values():
        check(case)
    check_lacks(case, lacks)
