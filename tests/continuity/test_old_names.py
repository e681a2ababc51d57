"""Names of version 0.1 keep working for one release, each with a warning that names the new one.

old_names.json lists the modules of that version and what its documentation described.
"""

import importlib
import json
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import openmm
import pytest

import openmm_scoremd
from openmm_scoremd import ScoreModelFile, _renamed

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OLD = json.loads((HERE / "old_names.json").read_text(encoding="utf-8"))


def fresh(module):
    """Import a module as if for the first time; return it and the warnings."""
    sys.modules.pop(module, None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = importlib.import_module(module)
    return found, [w for w in caught if w.category is FutureWarning]


@pytest.mark.parametrize("old", sorted(_renamed.MODULES))
def test_every_row_leads_to_modules_that_exist(old):
    for place in _renamed.MODULES[old]:
        importlib.import_module(f"openmm_scoremd.{place}")


# The parent of a module may be an old name itself, and warn.
@pytest.mark.filterwarnings("ignore:openmm_scoremd.native is now:FutureWarning")
@pytest.mark.parametrize("name", OLD["modules"])
def test_old_modules_can_be_imported(name):
    if importlib.util.find_spec(f"openmm_scoremd.{name}").loader.__class__ is _renamed.OldModules:
        module, caught = fresh(f"openmm_scoremd.{name}")
        # Stored Systems name this one; see below.
        if name != "computation":
            (warning,) = caught
            new = _renamed.MODULES[name][0]
            assert f"openmm_scoremd.{name} is now openmm_scoremd.{new}" in str(warning.message)
        assert fresh(f"openmm_scoremd.{name}")[0] is not module
        assert importlib.import_module(f"openmm_scoremd.{name}") is sys.modules[module.__name__]
    else:
        importlib.import_module(f"openmm_scoremd.{name}")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("module", "name"),
    [(module, name) for module, names in OLD["documented"].items() for name in names],
)
def test_documented_names_are_there(module, name):
    found = getattr(importlib.import_module(f"openmm_scoremd.{module}".rstrip(".")), name)
    # Not a submodule that has the name of a function.
    assert not isinstance(found, types.ModuleType)


def test_warnings_show_the_line_that_imports():
    sys.modules.pop("openmm_scoremd.weights", None)
    with pytest.warns(FutureWarning, match=r"models\.weights") as caught:
        from openmm_scoremd.weights import load_weights
    with pytest.warns(FutureWarning, match=r"artifact\.metadata") as caught_of_package:
        from openmm_scoremd.artifact import read_archive
    assert load_weights.__module__ == "openmm_scoremd.models.weights"
    assert read_archive.__module__ == "openmm_scoremd.artifact.metadata"
    assert {w.filename for w in (*caught, *caught_of_package)} == {__file__}


def test_names_of_a_module_that_is_a_package_now():
    import openmm_scoremd.artifact as package

    with pytest.warns(FutureWarning, match=r"artifact\.ModelMetadata is now .*\.metadata\.Model"):
        found = package.ModelMetadata
    assert found is importlib.import_module("openmm_scoremd.artifact.metadata").ModelMetadata
    with pytest.raises(AttributeError, match="no attribute 'ModelMetaData'"):
        _ = package.ModelMetaData


def test_renamed_classes(monkeypatch):
    monkeypatch.setitem(_renamed.NAMES, "weights.Network", "models.weights.TrainedModel")
    monkeypatch.setitem(_renamed.NAMES, "artifact.Record", "artifact.metadata.ModelMetadata")
    module, _ = fresh("openmm_scoremd.weights")
    assert module.Network.__name__ == "TrainedModel"
    with pytest.warns(FutureWarning, match=r"artifact\.Record is now .*metadata\.ModelMetadata"):
        assert openmm_scoremd.artifact.Record.__name__ == "ModelMetadata"


def test_unknown_modules_stay_unknown():
    with pytest.raises(ModuleNotFoundError, match=r"openmm_scoremd\.weight"):
        importlib.import_module("openmm_scoremd.weight")


def test_stored_systems_name_an_old_module(monkeypatch):
    # The file was written by version 0.1 and holds two forces, without and with the C++ kernel.
    monkeypatch.chdir(ROOT / "torchscript_models")
    sys.modules.pop("openmm_scoremd.computation", None)
    # An error while OpenMM unpickles would end this process, and warnings are errors here.
    system = openmm.XmlSerializer.deserialize((HERE / "pythonforce_system.xml").read_text())
    model = ScoreModelFile("alanine_dipeptide.pt")
    frame = model.metadata.self_test.positions[0]
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(frame)
    for group in range(2):
        state = context.getState(energy=True, forces=True, groups={group})
        expected = float(model.potential_energy(frame))
        assert state.getPotentialEnergy()._value == pytest.approx(expected, rel=1e-5)
        forces = model.forces(frame)
        found = state.getForces(asNumpy=True)._value
        np.testing.assert_allclose(found, forces, rtol=0.0, atol=1e-4 * np.abs(forces).max())


@pytest.mark.parametrize("module", ["openmm_scoremd", "openmm_scoremd.cli"])
def test_the_command_as_a_module(module):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", module, "--version"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == openmm_scoremd.__version__


def test_scripts_of_version_01_start_the_command():
    # What pip wrote into the environment then, and an update of a checkout leaves there.
    from openmm_scoremd.cli import main

    assert main(["nonsense"]) == 2
