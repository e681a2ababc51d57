"""``scoremd coarse-grain``: which beads, what they weigh, and what it says at its end."""

from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_scoremd import load_dataset
from openmm_scoremd.cli.beads import bead_masses
from openmm_scoremd.cli.main import main
from openmm_scoremd.errors import InvalidInputError

DATA = Path(__file__).parents[2] / "data"
PDB, DCD = DATA / "alanine_dipeptide.pdb", DATA / "alanine_dipeptide_200.dcd"


@pytest.fixture
def grain(tmp_path):
    """Return ``grain(*options)``: exit code of ``scoremd coarse-grain``, and its output file."""

    def run(*options, trajectory=DCD):
        output = tmp_path / "beads.npz"
        arguments = [str(trajectory), "--topology", str(PDB), "--temperature", "300"]
        return main(["coarse-grain", *arguments, "--output", str(output), *options]), output

    return run


@pytest.mark.parametrize(
    ("text", "masses"),
    [("72", [72.0]), ("72,45.5", [72.0, 45.5]), ("BB=72,SC1=45", {"BB": 72.0, "SC1": 45.0})],
)
def test_masses_are_read(text, masses):
    assert bead_masses(text) == masses
    assert bead_masses(None) is None


@pytest.mark.parametrize("text", ["heavy", "BB=", "72,BB=3", "", "BB=1=2"])
def test_masses_that_are_none_are_refused(text):
    with pytest.raises(InvalidInputError, match="--masses is"):
        bead_masses(text)


def test_a_table_ends_it(grain, capsys):
    code, output = grain("--preset", "alanine-dipeptide")
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{output}: 200 frames of 5 beads at 300 K")
    names = [line.split()[0] for line in lines[1:]]
    assert names == ["beads", "masses", "bonds", "C-N", "CA-N", "C-CA", "frames", "box"]
    assert load_dataset(output).notes == ("box: none",)


def test_beads_of_several_atoms(grain, tmp_path, capsys):
    rules = tmp_path / "rules.yaml"
    rules.write_text('ACE: {CAP: ["*"]}\nALA: {BB: [N, CA, C, O], SC: ["*"]}\n')
    code, output = grain("--mapping", str(rules), "--centre", "geometry", "--masses", "BB=50")
    assert code == 0
    beads = load_dataset(output).topology
    assert beads.names == ("CAP", "BB", "SC")
    assert beads.masses[1] == 50.0
    assert beads.bonds == ((0, 1), (1, 2))
    assert "BB-CAP" in capsys.readouterr().out


def test_exactly_one_choice(grain, capsys):
    assert grain("--preset", "ca", "--mapping", "x.yaml")[0] == 2
    assert (
        "exactly one of --preset, --selection, --indices and --mapping" in capsys.readouterr().err
    )


def test_frames_that_do_not_look_right_need_force(grain, tmp_path, capsys, caplog):
    frames = mdtraj.load(DCD, top=PDB)[:5]
    frames.xyz *= 10.0
    frames.save(str(tmp_path / "angstrom.xtc"))
    options = ("--preset", "alanine-dipeptide")
    code, output = grain(*options, trajectory=tmp_path / "angstrom.xtc")
    assert code == 2
    assert "numbers in Angstrom were written as nm" in " ".join(capsys.readouterr().err.split())
    assert not output.exists()
    assert grain(*options, "--force", trajectory=tmp_path / "angstrom.xtc")[0] == 0
    assert "Angstrom" in caplog.text
    assert "forced" in capsys.readouterr().out


def test_whole_ignores_the_box(grain, tmp_path):
    frames = mdtraj.load(DCD, top=PDB)[:5]
    frames.unitcell_vectors = np.repeat(0.2 * np.eye(3)[None], 5, axis=0)
    frames.save(str(tmp_path / "box.dcd"))
    options = ("--preset", "alanine-dipeptide")
    assert grain(*options, trajectory=tmp_path / "box.dcd")[0] == 2
    code, output = grain(*options, "--whole", trajectory=tmp_path / "box.dcd")
    assert code == 0
    assert load_dataset(output).notes == ("box: ignored: molecules are said to be whole",)
