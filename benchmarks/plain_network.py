"""The published graph transformer, exported as it is written: the yardstick of the benchmarks.

Every displacement is embedded and projected by itself, in tensors (B, N, N, heads, head_dim);
nothing is folded, and the diffusion time is an input that the exported file embeds at every call.
It takes over the parameters of a network of ``openmm_scoremd`` and is the same function. Written
for TorchScript, so annotations are types and not strings.
"""

import copy
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from openmm_scoremd.artifact.contract import CONTRACT
from openmm_scoremd.artifact.exported import ExportedModel
from openmm_scoremd.artifact.metadata import ModelMetadata
from openmm_scoremd.artifact.torchscript import (
    load_module,
    save_module,
    script_module,
    tensor_digest,
)
from openmm_scoremd.diffusion.schedule import VPSchedule
from openmm_scoremd.export.export import export_torchscript
from openmm_scoremd.model_file import ScoreModelFile
from openmm_scoremd.models.config import NetworkConfig
from openmm_scoremd.models.embedding import NoiseLevel
from openmm_scoremd.models.families import build_model, network_config
from openmm_scoremd.models.graph_transformer.family import GraphTransformerEnergy
from openmm_scoremd.models.graph_transformer.network import (
    EdgeAttention,
    GatedResidual,
    TransformerLayer,
)
from openmm_scoremd.models.weights import TrainedModel, WeightsDescription
from openmm_scoremd.topology import BeadTopology
from openmm_scoremd.units import thermal_energy

ENERGY_TOLERANCE = 1e-5


class PlainGate(nn.Module):
    """One scalar per bead from [new, old, new - old], concatenated."""

    def __init__(self, gate: GatedResidual) -> None:
        super().__init__()
        self.gate = gate.gate

    def forward(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the blend, shape as given."""
        share = torch.sigmoid(self.gate(torch.cat([new, old, new - old], dim=-1)))
        return new * share + old * (1.0 - share)


class PlainAttention(nn.Module):
    """Attention whose keys and values are made for every pair of beads."""

    def __init__(self, attention: EdgeAttention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.head_dim = attention.head_dim
        self.scale = attention.head_dim**-0.5
        self.query_key_value = attention.query_key_value
        self.edge_key_value = attention.edge
        self.output = attention.output

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Return (B, N, width); arguments (B, N, width) and (B, N, N, width)."""
        batch, n_beads, _ = nodes.shape
        heads, width = self.heads, self.head_dim
        query, key, value = self.query_key_value(nodes).chunk(3, dim=-1)
        edge = self.edge_key_value(edges).view(batch, n_beads, n_beads, heads, width)
        keys = key.reshape(batch, 1, n_beads, heads, width) + edge
        values = value.reshape(batch, 1, n_beads, heads, width) + edge
        # Faster on CPU than the same two contractions as einsum, in TorchScript 1.05 to 1.4 times.
        query = query.reshape(batch, n_beads, 1, heads, width)
        logits = (query * keys).sum(dim=-1) * self.scale  # (B, i, j, heads)
        attention = torch.softmax(logits, dim=2)
        mixed = (attention.unsqueeze(-1) * values).sum(dim=2)
        new: Tensor = self.output(mixed.flatten(2))
        return new


class PlainLayer(nn.Module):
    """Attention and feed-forward block, both normalised first and gated."""

    def __init__(self, layer: TransformerLayer) -> None:
        super().__init__()
        self.attention_norm = layer.attention_norm
        self.attention = PlainAttention(layer.attention)
        self.attention_gate = PlainGate(layer.attention_gate)
        self.feed_forward_norm = layer.feed_forward_norm
        self.feed_forward = layer.feed_forward
        self.feed_forward_gate = PlainGate(layer.feed_forward_gate)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Return updated bead embeddings (B, N, width)."""
        nodes = self.attention_gate(self.attention(self.attention_norm(nodes), edges), nodes)
        new = self.feed_forward(self.feed_forward_norm(nodes))
        blended: Tensor = self.feed_forward_gate(new, nodes)
        return blended


class PlainGraphTransformer(nn.Module):
    """Reduced energy at one diffusion time, computed as published.

    Parameters
    ----------
    model : GraphTransformerEnergy
        Network with a one-hot bead index whose parameters are taken over; not changed.
    t : float
        Diffusion time.
    """

    def __init__(self, model: GraphTransformerEnergy, *, t: float) -> None:
        super().__init__()
        model = copy.deepcopy(model)
        network = model.network
        self.t = t
        self.t_min, self.t_max = network.t_min, network.t_max
        self.noise_level: NoiseLevel | None = network.noise_level
        self.time_embedding = network.time_embedding
        self.bead_embedding = network.bead_embedding
        self.node = network.node
        self.edge = network.edge
        self.layers = nn.ModuleList(
            PlainLayer(layer) for layer in network.layers if isinstance(layer, TransformerLayer)
        )
        self.decoder = model.decoder

    def forward(self, x: Tensor) -> Tensor:
        """Return reduced energies (B,) of standardised coordinates (B, N, 3)."""
        t = torch.full([x.shape[0]], self.t, dtype=x.dtype, device=x.device)
        time = self.time_embedding(t).unsqueeze(1).expand(-1, x.shape[1], -1)
        beads = self.bead_embedding(None).expand(x.shape[0], -1, -1)
        nodes = self.node(torch.cat([beads, time], dim=-1))
        edges = functional.linear(
            x.unsqueeze(1) - x.unsqueeze(2), self.edge.weight, self.edge.bias
        )  # (B, i, j, width) of x_j - x_i
        for layer in self.layers:
            nodes = layer(nodes, edges)
        energy: Tensor = self.decoder(nodes).sum(dim=[1, 2])
        if self.noise_level is not None:
            energy = energy / self.noise_level(t.clamp(self.t_min, self.t_max))
        return energy


def export_plain(
    model: GraphTransformerEnergy, metadata: ModelMetadata, path: str | os.PathLike[str]
) -> Path:
    """Write the published form as a model file.

    Only the network differs from a file of ``export_torchscript``: unit conversion, sum over
    replicas, force class and integrator are the same, so a timing compares networks.

    Parameters
    ----------
    model : GraphTransformerEnergy
        Network, in the precision of the file.
    metadata : ModelMetadata
        Record of the file of ``export_torchscript`` for the same network; its self-test frames
        must be reproduced when the plain file is loaded.
    path : path-like
        The ``.pt`` file.

    Returns
    -------
    Path
        The file.
    """
    exported = ExportedModel(
        [copy.deepcopy(model)],
        [],
        PlainGraphTransformer(model, t=metadata.t),
        centred=True,
        n_beads=metadata.n_beads,
        scale=metadata.scale,
        thermal_energy=metadata.thermal_energy,
    )
    for parameter in exported.parameters():
        parameter.requires_grad_(False)
    digest = tensor_digest(exported)
    exported.metadata = dataclasses.replace(metadata, tensor_digest=digest).to_json()
    save_module(script_module(exported, methods=("score", CONTRACT)), path, exported.metadata)
    return Path(path)


# --- the networks that are timed ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """One network as two model files."""

    name: str
    config: NetworkConfig
    files: Mapping[str, ScoreModelFile]

    @property
    def n_beads(self) -> int:
        """Beads of one replica."""
        return self.files["ours"].n_beads


def export_random_network(
    n_beads: int, config: NetworkConfig, path: str | os.PathLike[str]
) -> Path:
    """Write a model file whose every parameter is random, biases and norms included."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build_model(config, n_beads=n_beads, n_dims=3).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    topology = chain_topology(n_beads)
    description = WeightsDescription(
        title=f"random network of {n_beads} beads",
        network=config,
        schedule=VPSchedule(),
        topology=topology,
        n_dims=3,
        translation_invariant=True,
        temperature=300.0,
        scale=0.15,
        t_min=1e-5,
        dataset_sha256="",
        example_positions=zigzag_frames(8, n_beads),
        bond_ranges=((0.1, 0.2),) * len(topology.bonds),
        training={},
    )
    return export_torchscript(TrainedModel(model.float().eval(), description), path)


def chain_topology(n_beads: int) -> BeadTopology:
    """Return a chain of carbon beads."""
    return BeadTopology(
        names=tuple(f"B{i}" for i in range(n_beads)),
        elements=("C",) * n_beads,
        residue_names=("BEN",) * n_beads,
        residue_ids=(1,) * n_beads,
        chain_ids=("A",) * n_beads,
        masses=(12.0,) * n_beads,
        bonds=tuple((i, i + 1) for i in range(n_beads - 1)),
    )


def zigzag_frames(n_frames: int, n_beads: int) -> NDArray[np.float64]:
    """Frames (n_frames, n_beads, 3) in nm of a bent chain with noise."""
    chain = np.array([[0.12 * i, 0.05 * (i % 2), 0.0] for i in range(n_beads)])
    noise = np.random.default_rng(0).normal(scale=0.01, size=(n_frames, n_beads, 3))
    frames: NDArray[np.float64] = chain + noise
    return frames


def network_of_file(model: ScoreModelFile) -> tuple[GraphTransformerEnergy, NetworkConfig]:
    """Rebuild the network that an exported file holds for sampling, in its precision."""
    entries = dict(model.metadata.architecture)
    entries.pop("experts", None)
    config = network_config(entries)
    schedule = model.metadata.schedule
    network = build_model(config, n_beads=model.n_beads, n_dims=3, schedule=schedule)
    if not isinstance(network, GraphTransformerEnergy):
        raise SystemExit(f"{model.path} holds no conservative graph transformer")
    # The first expert is the one of the earliest times, whose force the file holds.
    experts = load_module(model.path, device="cpu").experts
    stored = getattr(experts, "0").model.state_dict()
    network.to(dtype=getattr(torch, model.metadata.dtype))
    network.load_state_dict({name: stored[name] for name in network.state_dict()})
    return network.eval(), config


def make_case(name: str, ours: Path, folder: Path) -> Case:
    """Load a model file and the plain form of the same network."""
    model = ScoreModelFile(ours)
    network, config = network_of_file(model)
    plain = export_plain(network, model.metadata, folder / f"plain_{ours.name}")
    return Case(name, config, {"plain": ScoreModelFile(plain), "ours": model})


def differences(case: Case) -> dict[str, float]:
    """Compare both files on the self-test frames; what is larger than rounding is an error.

    Energies are relative to the largest or to kT, forces to the largest.
    """
    ours, plain = case.files["ours"], case.files["plain"]
    frames = ours.metadata.self_test.positions
    energies, reference = ours.potential_energy(frames), plain.potential_energy(frames)
    scale = max(float(np.abs(reference).max()), thermal_energy(ours.temperature))
    energy = float(np.abs(energies - reference).max()) / scale
    forces = plain.forces(frames)
    force = float(np.abs(ours.forces(frames) - forces).max() / np.abs(forces).max())
    if not energy <= ENERGY_TOLERANCE:
        raise SystemExit(
            f"{case.name}: plain and folded energies differ by {energy:.2g} relative; "
            f"allowed are {ENERGY_TOLERANCE:.0g}. Nothing was timed."
        )
    return {"energy": energy, "force": force}
