"""The folded network under torch.compile, for the simulation benchmark: no OpenMM, no forces' copy.

What a PythonForce with torch.compile could reach at best: energies and gradients of the same folded
network (`models/folded.py`), in the blocks of replicas that it uses itself, with inductor's C++
wrapper. Steps of an integrator are left out, in its favour.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from plain_network import Case, network_of_file

from openmm_scoremd.models.graph_transformer.folded import FoldedGraphTransformer

NAME = "torch.compile alone"


def evaluation_stepper(case: Case, replicas: int) -> Callable[[int], None]:
    """Return a function that evaluates energies and gradients of all replicas, n times."""
    model = case.files["ours"]
    network, _ = network_of_file(model)
    folded = (
        FoldedGraphTransformer(
            network.network.double(), network.decoder.double(), t=model.metadata.t
        )
        .float()
        .eval()
    )
    frames = torch.tensor(model.metadata.self_test.positions, dtype=torch.float32)
    x = (frames / model.metadata.scale)[torch.arange(replicas) % len(frames)]
    x = x - x.mean(dim=1, keepdim=True)
    blocks = torch.split(x, folded.replicas_per_block)
    # A few shapes of every network are compiled; beyond eight dynamo would run them uncompiled.
    torch._dynamo.reset()
    compiled = torch.compile(folded._block, dynamic=False, options={"cpp_wrapper": True})

    def step(n_steps: int) -> None:
        with torch.no_grad():
            for _ in range(n_steps):
                for block in blocks:
                    compiled(block)

    return step
