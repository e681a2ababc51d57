"""``scoremd coarse-grain``: from an all-atom trajectory to a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from openmm_scoremd.cli.beads import BeadChoice, chosen_beads
from openmm_scoremd.cli.options import require_suffix
from openmm_scoremd.cli.progress import progress_bar
from openmm_scoremd.errors import InvalidInputError


def coarse_grain(
    trajectory: Annotated[list[str], "trajectory files of any format that MDTraj reads"],
    *,
    topology: Annotated[str, "PDB, mmCIF, prmtop, PSF or GROMACS top of all atoms"],
    temperature: Annotated[float, "temperature of the trajectory in K"],
    output: Annotated[str, "dataset to write (.npz); bead topologies (.pdb, .psf) go beside it"],
    preset: Annotated[
        Literal["alanine-dipeptide", "backbone-cb", "ca"] | None,
        "which atoms become beads: a named set,",
    ] = None,
    selection: Annotated[str | None, "or a selection of MDTraj, such as 'name CA',"] = None,
    indices: Annotated[list[int] | None, "or atom indices from 0, such as 4,6,8,"] = None,
    mapping: Annotated[
        str | None, "or a YAML file of beads of several atoms: residue, bead, names of atoms"
    ] = None,
    centre: Annotated[Literal["mass", "geometry"], "where a bead of --mapping lies"] = "mass",
    masses: Annotated[
        str | None, "masses of the beads in Da, if the topology has none: BB=72,SC1=45 or 72"
    ] = None,
    stride: Annotated[int, "take every n-th frame", 1] = 1,
    whole: Annotated[bool, "molecules are whole: take no notice of the periodic box"] = False,
    force: Annotated[bool, "go on with frames that do not look right"] = False,
) -> None:
    """Make a CG dataset from an all-atom trajectory."""
    from openmm_scoremd.data.coarse_graining import coarse_grain_trajectory, load_topology
    from openmm_scoremd.data.dataset import save_dataset
    from openmm_scoremd.data.summary import format_summary
    from openmm_scoremd.trajectories.bead_files import write_viewer_files
    from openmm_scoremd.trajectories.reading import without_c_output
    from openmm_scoremd.units import thermal_energy

    thermal_energy(temperature)
    require_suffix(output, ".npz")
    _require_new_files(output, ".npz", ".pdb", ".psf")
    with without_c_output():
        atoms = load_topology(topology, trajectory=trajectory[0])
    beads = chosen_beads(
        atoms, BeadChoice(preset, selection, indices, mapping), centre=centre, masses=masses
    )
    with progress_bar("reading frames") as advance, without_c_output():
        dataset = coarse_grain_trajectory(
            trajectory,
            atoms,
            beads,
            temperature=temperature,
            stride=stride,
            box="ignore" if whole else "join",
            on_problem="warn" if force else "raise",
            progress=advance,
        )
    scale = dataset.scale  # An error if there is nothing to learn, better now than in training.
    save_dataset(dataset, output)
    write_viewer_files(dataset.topology, dataset.positions[0], Path(output).with_suffix(""))
    print(
        f"{output}: {dataset.n_frames:,} frames of {dataset.n_beads} beads at "
        f"{dataset.temperature:g} K, scale {scale:.4f} nm"
    )
    print(format_summary(dataset))


def _require_new_files(path: str, *suffixes: str) -> None:
    # Files that nobody named must replace nothing: the topology may lie where they go.
    for file in (Path(path).with_suffix(suffix) for suffix in suffixes):
        if file.exists():
            raise InvalidInputError(f"{file} exists already; give another name for the output")
