"""The table at the end of coarse-graining, and the number of independent frames in it."""

import numpy as np
import pytest

from openmm_scoremd.data._correlation import effective_frames
from openmm_scoremd.data.dataset import CGDataset
from openmm_scoremd.data.summary import format_summary
from openmm_scoremd.topology import BeadTopology

BEADS = BeadTopology(
    names=("CA",) * 3,
    elements=("C",) * 3,
    residue_names=("ALA",) * 3,
    residue_ids=(1, 2, 3),
    chain_ids=("A", "A", "B"),
    masses=(12.011, 12.011, 15.0),
    bonds=((0, 1),),
)


def correlated(n_frames, *, memory, seed):
    """Return frames whose distances follow an AR(1) process."""
    rng = np.random.default_rng(seed)
    noise, values = rng.normal(size=(n_frames, 3)), np.zeros((n_frames, 3))
    values[0] = noise[0]
    for k in range(1, n_frames):
        values[k] = memory * values[k - 1] + np.sqrt(1.0 - memory**2) * noise[k]
    frames = np.zeros((n_frames, 3, 3))
    frames[:, 1, 0] = 0.38 + 0.01 * values[:, 0]
    frames[:, 2, 1] = 0.60 + 0.02 * values[:, 1]
    return frames.astype(np.float32)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_effective_frames_of_a_known_process(memory):
    # The statistical inefficiency of AR(1) is (1 + m) / (1 - m).
    expected = 4000 * (1.0 - memory) / (1.0 + memory)
    found = [effective_frames(correlated(4000, memory=memory, seed=seed)) for seed in range(4)]
    assert np.mean(found) == pytest.approx(expected, rel=0.25)


def test_effective_frames_of_odd_sets():
    assert effective_frames(correlated(1, memory=0.0, seed=0)) == 1.0
    still = np.repeat(correlated(1, memory=0.0, seed=0), 50, axis=0)
    assert 1.0 <= effective_frames(still) <= 50.0
    # A slow change through all frames leaves very few.
    drift = correlated(500, memory=0.0, seed=0)
    drift[:, 2, 1] += np.linspace(0.0, 5.0, 500)
    assert effective_frames(drift) < 5.0


def test_summary_names_what_was_made():
    positions = correlated(200, memory=0.0, seed=0)
    dataset = CGDataset(positions, BEADS, 300.0, notes=("box: none", "left out: " + "ALA 7, " * 30))
    lines = format_summary(dataset).splitlines()
    text = "\n".join(lines)
    assert "3 of 3 residues in 2 chains" in text
    assert "12.01 to 15.00 Da" in text
    lengths = np.linalg.norm(positions[:, 1] - positions[:, 0], axis=-1)
    row = next(line for line in lines if "CA-CA" in line).split()
    assert row[:4] == ["CA-CA", "1", "mean", f"{lengths.mean():.4f}"]
    assert row[6:9] == [f"{lengths.min():.4f}", "to", f"{lengths.max():.4f}"]
    assert "join the beads to 2 pieces" in text
    assert "200 at 300 K" in text
    assert max(map(len, lines)) <= 100
    bare = CGDataset(positions, BeadTopology.from_dict({**BEADS.to_dict(), "bonds": []}), 300.0)
    assert "none: nothing says which beads belong together" in format_summary(bare)
