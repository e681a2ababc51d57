"""Names that modules had: they keep working for one release, with a warning that names the new one.

The package's ``__init__`` installs :class:`OldModules`, which is asked only where nothing else has
the module. A module that kept its name, or became a package of it, calls :func:`keep_old_names`.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final, TypeVar

PACKAGE: Final = "openmm_scoremd"

Class = TypeVar("Class", bound=type)

#: Modules of version 0.1, without the package's name, and where their content is.
MODULES: Final[dict[str, tuple[str, ...]]] = {
    "_checks": ("_files.json_checks",),
    "_io": ("_files.atomic", "_files.run_record"),
    "_tensors": ("_files.tensors",),
    "adjustable": ("artifact.noise_levels",),
    "analysis._json": ("_files.plain_json",),
    "analysis.agreement": ("analysis.comparison.pairs",),
    "analysis.basins": ("analysis.observables.basins",),
    "analysis.comparison": (
        "analysis.comparison.measures", "analysis.comparison.metrics", "analysis.comparison.table",
    ),
    "analysis.features": ("analysis.comparison.features",),
    "analysis.free_energy": ("analysis.observables.free_energy",),
    "analysis.groups": ("analysis.observables.groups",),
    "analysis.kinetics": ("analysis.statistics.kinetics",),
    "analysis.metrics": ("analysis.comparison.metrics",),
    "analysis.observables": ("analysis.observables.internal_coordinates",),
    "analysis.page": ("analysis.report.page",),
    "analysis.planes": ("analysis.comparison.planes",),
    "analysis.plots": ("analysis.report.plots",),
    "analysis.report": ("analysis.report.folder",),
    "analysis.report_plots": ("analysis.report.plots",),
    "analysis.reweighting": ("analysis.statistics.reweighting",),
    "analysis.results": ("analysis.comparison.table",),
    "analysis.samples": ("analysis.statistics.samples",),
    "analysis.summary": ("analysis.comparison.summary", "analysis.comparison.pairs"),
    "analysis.training_log": ("analysis.report.curves",),
    "analysis.two_sample": ("analysis.statistics.two_sample",),
    "analysis.uncertainty": ("analysis.statistics.uncertainty",),
    "artifact": ("artifact.metadata",),
    "cli_commands": (
        "cli.data", "cli.train", "cli.model", "cli.sample", "cli.simulate", "cli.evaluate",
        "cli.refine", "cli.campaign", "cli.main",
    ),
    "cli_ecosystem": ("cli.train", "cli.refine", "cli.evaluate", "cli.campaign"),
    "cli_evaluate": ("cli.evaluate",),
    "cli_simulate": ("cli.simulate",),
    "cli_steps": (
        "cli.options", "cli.sample", "cli.train", "sampling.folder",
        "evaluation.fokker_planck_folder",
    ),
    "computation": ("forces.python_force", "forces.kernel_force"),
    "data.spreading": ("data.regions",),
    "diffusion.denoising_trajectory": ("diffusion.overdamped_langevin",),
    "evaluation": ("evaluation.evaluate",),
    "exact_density": ("simulation.exact_density",),
    "export": ("export.export",),
    "fokker_planck_error": ("evaluation.fokker_planck",),
    "force": ("forces.create", "forces.options", "forces.torchforce", "forces.backend"),
    "iid": ("sampling.reverse_diffusion",),
    "models.compiler_forms": ("training.compiled.compiler_forms",),
    "models.explicit": ("models.graph_transformer.explicit",),
    "models.explicit_attention": ("models.graph_transformer.explicit_attention",),
    "models.exported": ("artifact.exported",),
    "models.factory": ("models.families", "models.config", "models.base"),
    "models.folded": ("models.graph_transformer.folded",),
    "native": ("forces.kernel",),
    "native.build": ("forces.kernel.build",),
    "native.network": ("forces.kernel.network",),
    "progress": ("cli.progress", "cli.signals"),
    "refinement": ("refinement.refine",),
    "refinement_folder": ("refinement.folder",),
    "simulation.beginning": ("simulation.run.start",),
    "simulation.guards": ("simulation.run.guards",),
    "simulation.mending": ("simulation.run.restarts",),
    "simulation.outputs": ("trajectories.appendable_files", "trajectories.formats"),
    "simulation.plan": ("simulation.speed",),
    "simulation.recording": ("simulation.run.recording",),
    "simulation.reporters": ("trajectories.reporters",),
    "simulation.run": ("simulation.run.replica_run",),
    "simulation.run_folder": ("simulation.run.folder", "trajectories.segments"),
    "simulation.settings": ("simulation.run.settings",),
    "simulation.stepping": ("simulation.run.stepping",),
    "simulation.trajectories": ("trajectories.reading",),
    "topology": ("trajectories.bead_files",),
    "torchscript": ("artifact.torchscript",),
    "training.average": ("training.ema",),
    "training.build": ("training.setup",),
    "training.division": ("training.compiled.parallel_steps",),
    "training.graphs": ("training.compiled.inductor",),
    "training.refinement": ("refinement.energy_fit",),
    "training.steps": ("training.compiled.steps",),
    "trajectory_sampling": ("sampling.langevin",),
    "weights": ("models.weights",),
}  # fmt: skip

#: Functions, classes and constants under other names: ``old module.old name`` to the new place.
NAMES: Final[dict[str, str]] = {
    "evaluation.held_back_frames": "evaluation.evaluate.held_out_frames",
    "models.factory.NetworkConfig": "models.families.former_config",
    "artifact.SCHEMA_VERSION": "description.SCHEMA_VERSION",
    "computation.CompiledComputation": "forces.kernel_force.KernelComputation",
    "weights.ModelDescription": "models.weights.WeightsDescription",
    "simulation.beginning.Beginning": "simulation.run.start.StartFrames",
    "simulation.mending.Mender": "simulation.run.restarts.Restarts",
    "simulation.outputs.CSVCodec": "trajectories.formats.CSVFormat",
    "simulation.outputs.Codec": "trajectories.appendable_files.FileFormat",
    "simulation.outputs.DCDCodec": "trajectories.formats.DCDFormat",
    "simulation.outputs.GrowingFile": "trajectories.appendable_files.AppendableFile",
    "simulation.outputs.NpyCodec": "trajectories.formats.NpyFormat",
    "simulation.outputs.XTCCodec": "trajectories.formats.XTCFormat",
    "simulation.recording.Marks": "trajectories.segments.TrajectoryBreaks",
}

#: Stored Systems name it, and OpenMM ends the process where reading one raises, as warnings may.
_SILENT = frozenset({"computation"})


class OldModules:
    """Finder and loader of old modules: they hold the content of the new ones."""

    @classmethod
    def find_spec(
        cls,
        fullname: str,
        _path: Sequence[str] | None = None,
        _target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return how to load an old module, None for any other name."""
        if not fullname.startswith(f"{PACKAGE}.") or _short(fullname) not in MODULES:
            return None
        loader: Any = cls()
        return ModuleSpec(fullname, loader, is_package=True)  # some had submodules

    def create_module(self, _spec: ModuleSpec) -> None:
        """Leave it to Python to make an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill an old module."""
        old = _short(module.__name__)
        places = [f"{PACKAGE}.{place}" for place in MODULES[old]]
        if old not in _SILENT:
            _warn(module.__name__, " and ".join(places))
        for place in reversed(places):
            content = vars(import_module(place)).items()
            vars(module).update({n: value for n, value in content if not n.startswith("__")})
        for path, place in NAMES.items():
            parent, _, name = path.rpartition(".")
            if parent == old:
                setattr(module, name, _at(place))


def install() -> None:
    """Let old modules be found, after everything else."""
    if OldModules not in sys.meta_path:
        sys.meta_path.append(OldModules)


def keep_old_names(module: str) -> None:
    """Let a module, given by its ``__name__``, have the names that it had."""
    old = _short(module)

    def find(name: str) -> Any:
        # `from package import submodule` asks here first where the submodule is not loaded yet.
        if not name.startswith("__") and not _is_submodule(f"{module}.{name}"):
            places = [f"{place}.{name}" for place in MODULES.get(old, ())]
            for place in (NAMES[f"{old}.{name}"],) if f"{old}.{name}" in NAMES else places:
                with contextlib.suppress(AttributeError):
                    found = _at(place)
                    _warn(f"{module}.{name}", f"{PACKAGE}.{place}")
                    return found
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    # Type checkers are not to see it: any name would be right for them.
    vars(sys.modules[module])["__getattr__"] = find


def keep_old_attribute(old: str, new: str) -> Callable[[Class], Class]:
    """Let a class be made with an argument under its former name, and have that attribute."""

    def keep(kind: Class) -> Class:
        name, init = f"{kind.__name__}.{{}}", kind.__init__  # type: ignore[misc]

        @functools.wraps(init)
        def accept(self: Any, *given: Any, **named: Any) -> None:
            if old in named:
                _warn(name.format(old), name.format(new))
                named[new] = named.pop(old)
            init(self, *given, **named)

        def get(self: Any) -> Any:
            _warn(name.format(old), name.format(new))
            return getattr(self, new)

        def change(self: Any, value: Any) -> None:
            _warn(name.format(old), name.format(new))
            setattr(self, new, value)

        for attribute, value in {"__init__": accept, old: property(get, change)}.items():
            setattr(kind, attribute, value)
        return kind

    return keep


def _is_submodule(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of a module that is no package
        return False


def _short(name: str) -> str:
    return name.removeprefix(f"{PACKAGE}.")


def _at(place: str) -> Any:
    module, _, name = place.rpartition(".")
    return getattr(import_module(f"{PACKAGE}.{module}"), name)


def _warn(old: str, new: str) -> None:
    warnings.warn(
        f"{old} is now {new}; the old name will go with the next release",
        FutureWarning,
        stacklevel=3,
    )
