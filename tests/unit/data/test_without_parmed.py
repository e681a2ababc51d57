"""Nothing but the formats that ParmEd reads needs ParmEd."""

import subprocess
import sys
from pathlib import Path

import pytest

from openmm_scoremd.data.atoms import PARMED_SUFFIXES, load_topology
from openmm_scoremd.errors import MissingDependencyError

ROOT = Path(__file__).parents[3]

#: Every module, and all that reads a PDB, where ParmEd fails as it is imported.
WITHOUT = """
import importlib, pkgutil, sys
sys.modules["parmed"] = None
import openmm_scoremd
for found in pkgutil.walk_packages(openmm_scoremd.__path__, "openmm_scoremd."):
    # openmm-ml loads its part of this package itself.
    if not found.name.endswith(("__main__", "openmm_ml")):
        importlib.import_module(found.name)
from openmm_scoremd.cli.main import main
raise SystemExit(main(sys.argv[1:]))
"""


def test_all_modules_and_a_pdb_do_without_it(tmp_path):
    data = ROOT / "tests" / "data"
    command = [
        *("coarse-grain", data / "alanine_dipeptide_200.dcd"),
        *("--topology", data / "alanine_dipeptide.pdb", "--preset", "alanine-dipeptide"),
        *("--temperature", "300", "--output", tmp_path / "beads.npz"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *map(str, command)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "beads.npz").exists()


@pytest.mark.parametrize("suffix", PARMED_SUFFIXES)
def test_formats_that_need_it_say_so(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "parmed", None)
    path = tmp_path / f"molecule{suffix}"
    path.write_text("whatever\n")
    with pytest.raises(MissingDependencyError, match=r"which cannot be imported.*install parmed"):
        load_topology(path)
