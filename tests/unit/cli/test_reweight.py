"""``scoremd reweight`` writes weighted frames and says how many they are worth."""

import numpy as np
import pytest

from openmm_scoremd.cli.main import main


def test_frames_and_weights(two_wells, tmp_path, capsys):
    output = tmp_path / "weighted.npz"
    arguments = [str(two_wells()), str(output), "--frames", "300", "--steps", "40", "--seed", "2"]
    assert main(["reweight", *arguments]) == 0
    with np.load(output) as file:
        frames, weights = file["frames"], file["weights"]
        assert set(file) == {"frames", "log_density", "energies", "weights"}
    assert frames.shape == (300, 1, 3)
    assert weights.sum() == pytest.approx(1.0)
    size = 1.0 / np.square(weights).sum()
    assert 150.0 < size <= 300.0
    assert f"300 frames, as many as {size:.0f} unweighted" in capsys.readouterr().out


def test_other_suffix(two_wells, tmp_path, capsys):
    assert main(["reweight", str(two_wells()), str(tmp_path / "weighted.dcd")]) == 2
    assert "must end in .npz" in capsys.readouterr().err
