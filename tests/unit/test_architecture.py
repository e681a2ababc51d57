"""What may import what, and the house rules that neither ruff nor mypy knows.

The contracts stand in pyproject.toml; ``make lint`` checks them, too. Imports count wherever they
stand: inside functions and under TYPE_CHECKING too, because either way one file knows the other.
"""

import ast
import copy
import functools
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter import configuration
from importlinter.application import use_cases

import openmm_scoremd

ROOT = Path(__file__).parents[2]
PACKAGE = "openmm_scoremd"
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400


# --- Imports ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def options():
    configuration.configure()
    options = use_cases.read_user_options(str(ROOT / "pyproject.toml"))
    use_cases._register_contract_types(options)
    return options


@pytest.fixture(scope="module")
def graph(options):
    return use_cases.create_report(options, cache_dir=None).graph


def broken(graph, options):
    """Return the names of the contracts that a graph breaks."""
    report = use_cases._build_report(graph, 0, options, (), show_timings=False, verbose=False)
    assert not report.could_not_run, report.invalid_contract_options
    return {c.name for c, check in report.get_contracts_and_checks() if not check.kept}


def test_contracts_of_imports(graph, options):
    assert broken(graph, options) == set(), "run lint-imports"


@pytest.mark.parametrize(
    ("importer", "imported", "contract"),
    [
        ("units", "geometry", "Every room in its layer"),
        ("geometry", "model_file", "Every room in its layer"),
        ("training.trainer", "cli.progress", "Every room in its layer"),
        ("simulation.replicas", "training.trainer", "A model file runs without training"),
        ("units", "training.trainer", "A model file runs without training"),
        ("simulation.replicas", "models.base", "One door from model files to networks"),
        ("artifact.loaded", "models.base", "One door from model files to networks"),
        ("evaluation.evaluate", "/matplotlib", "One owner of pictures"),
        ("cli.progress", "/rich", "One owner of bars"),
        ("refinement.refine", "/lightning", "One owner of lightning"),
    ],
)
def test_contracts_can_be_broken(graph, options, importer, imported, contract):
    changed = copy.deepcopy(graph)
    external = imported.startswith("/")
    to = imported[1:] if external else f"{PACKAGE}.{imported}"
    changed.add_import(importer=f"{PACKAGE}.{importer}", imported=to)
    assert any(name.startswith(contract) for name in broken(changed, options))


def layers_of(options):
    (contract,) = (c for c in options.contracts_options if c["type"] == "layers")
    return [[room.strip() for room in layer.split("|")] for layer in reversed(contract["layers"])]


def lowest_layers(graph):
    """Return the rooms, each directly above the highest one that it imports."""
    uses = {}
    for module in graph.modules:
        if module.startswith(f"{PACKAGE}."):
            room = module.split(".")[1]
            found = {m.split(".")[1] for m in graph.find_modules_directly_imported_by(module)
                     if m.startswith(f"{PACKAGE}.")}  # fmt: skip
            uses.setdefault(room, set()).update(found - {room})
    layers = []
    while uses:
        placed = {room for layer in layers for room in layer}
        layers.append(sorted(room for room, needs in uses.items() if needs <= placed))
        if not layers[-1]:
            pytest.fail(f"rooms import each other: {uses}")
        for room in layers[-1]:
            del uses[room]
    return layers


def test_no_layer_is_higher_than_its_rooms_need(graph, options):
    graph = copy.deepcopy(graph)
    (contract,) = (c for c in options.contracts_options if c["type"] == "layers")
    for ignored in contract.get("ignore_imports", []):
        importer, imported = ignored.split(" -> ")
        graph.remove_import(importer=importer, imported=imported)
    lowest = lowest_layers(graph)
    lines = "\n".join(f'    "{" | ".join(layer)}",' for layer in reversed(lowest))
    assert [sorted(layer) for layer in layers_of(options)] == lowest, f"must be\n{lines}"


def test_no_two_files_import_each_other(graph):
    needs = {
        module: graph.find_modules_directly_imported_by(module)
        for module in graph.modules - {PACKAGE}  # it names everything, and loads nothing
    }
    graphlib.TopologicalSorter(needs).prepare()
    needs[f"{PACKAGE}.errors"] = {f"{PACKAGE}.model_file"}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(needs).prepare()


def modules_loaded_by(statement):
    code = f"{statement}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_simulating_loads_neither_networks_nor_training():
    module = f"{PACKAGE}.simulation.run.replica_run"
    loaded = modules_loaded_by(f"import {module}")
    assert module in loaded
    unwanted = {"lightning", "matplotlib", "jsonargparse", "mdtraj", "parmed", "rich", "scipy"}
    assert loaded.isdisjoint({f"{PACKAGE}.models", f"{PACKAGE}.training"} | unwanted)


class TestPublicNames:
    def test_importing_the_package_loads_nothing_else(self):
        loaded = modules_loaded_by(f"import {PACKAGE}")
        assert {m for m in loaded if m.startswith(PACKAGE)} == {PACKAGE, f"{PACKAGE}._renamed"}
        assert loaded.isdisjoint({"torch", "openmm", "numpy", "mdtraj", "importlib.metadata"})

    @pytest.mark.parametrize("name", openmm_scoremd.__all__)
    def test_name_is_there(self, name):
        assert getattr(openmm_scoremd, name).__name__ == name
        assert name in dir(openmm_scoremd)

    def test_type_checkers_see_the_names_where_they_are(self):
        tree = ast.parse(Path(openmm_scoremd.__file__).read_text(encoding="utf-8"))
        seen = {
            alias.name: node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}.")
            for alias in node.names
        }
        assert seen == {name: f"{PACKAGE}.{home}" for name, home in openmm_scoremd._HOME.items()}
        assert sorted(openmm_scoremd.__all__) == sorted(seen)

    def test_unknown_name(self):
        with pytest.raises(AttributeError, match="no attribute 'ScoreModelfile'"):
            _ = openmm_scoremd.ScoreModelfile

    def test_version_is_that_of_the_installed_package(self):
        declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
        assert openmm_scoremd.__version__ == declared[1]


# --- House rules: a rule takes a syntax tree and yields line and complaint ---------------------


def keyword_swallowers(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and node.args.kwarg:
            yield node.lineno, f"**{node.args.kwarg.arg} swallows misspelt options"


def long_functions(tree):
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node):
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {lines} lines without its docstring"


def unpickling(tree):
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="allow_pickle") if ast.unparse(node.value) != "False":
                yield node.value.lineno, "allow_pickle is not False"
            # Lightning's Fabric.load and .save are torch.load and torch.save.
            case ast.Attribute(attr="load" | "save") if "fabric" in ast.unparse(node.value).lower():
                yield node.lineno, f"Fabric.{node.attr} pickles"


def imports_by_name(tree):
    """Imports that neither ruff nor import-linter sees."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).split(".")[-1]
            if name in ("import_module", "__import__"):
                yield node.lineno, f"{name}({', '.join(map(ast.unparse, node.args))})"


def force_classes(tree):
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
        if name in ("TorchForce", "PythonForce"):
            yield node.lineno, f"{name} belongs in forces/"


#: Rules, and where they do not hold.
RULES = {
    keyword_swallowers: ("_renamed.py",),  # hands them on
    long_functions: (),
    unpickling: (),
    imports_by_name: (
        *("__init__.py", "_renamed.py", "analysis/reweighting.py", "analysis/statistics/"),
        *("campaign/cluster.py", "forces/", "models/families.py"),
    ),
    force_classes: ("forces/",),
}


@functools.cache
def sources():
    folder = ROOT / PACKAGE
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py"))
    }


tree_of = functools.cache(ast.parse)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_house_rule(rule):
    complaints = [
        f"{name}, line {line}: {complaint}"
        for name, text in sources().items()
        if not name.startswith(RULES[rule])
        for line, complaint in rule(tree_of(text))
    ]
    assert not complaints, "\n".join(complaints)


def test_files_are_short():
    lengths = {name: len(text.splitlines()) for name, text in sources().items()}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}
    assert max(lengths.values()) > 100


LONG_BODY = "\n".join(f"    x{i} = {i}" for i in range(MAX_FUNCTION_LINES))
SHORT_BODY = "\n".join(f"    x{i} = {i}" for i in range(MAX_FUNCTION_LINES - 3))


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (keyword_swallowers, "def f(*, x): g(**x)", "def f(**options): pass"),
        (keyword_swallowers, "lambda x: x", "class A:\n    f = lambda **x: x"),
        (long_functions, f'def f():\n    """a\n\n    b"""\n{SHORT_BODY}', f"def f():\n{LONG_BODY}"),
        (long_functions, f"def f():\n{SHORT_BODY}", f"class A:\n  async def f():\n{LONG_BODY}"),
        (unpickling, "np.load(x, allow_pickle=False)", "np.load(x, allow_pickle=flag)"),
        (unpickling, "fabric.print(x)", "self.fabric.load(x)"),
        (imports_by_name, "import x", "importlib.import_module(x)"),
        (force_classes, "'TorchForce'", "mm.PythonForce(f)"),
        (force_classes, "create_force()", "TorchForce(m)"),
    ],
)
def test_rule_tells_good_from_bad(rule, good, bad):
    assert list(rule(ast.parse(good))) == []
    assert list(rule(ast.parse(bad)))


def test_ruff_knows_the_other_house_rules():
    # One owner of torch.jit, no pickle, no assert, no print, no package without __init__.py.
    bad = {
        "TID251": ["from torch import jit as j", "import torch as t\nt.load('x')", "import dill"],
        "S101": ["assert 1"],
        "T201": ["print(1)"],
        "INP001": [""],
        "BLE001": ["try:\n    f()\nexcept Exception:\n    g()"],
        "D103": ["def f(): pass"],
    }
    for code, texts in bad.items():
        for text in texts:
            command = [sys.executable, "-m", "ruff", "check", "--quiet", "--output-format=concise"]
            path = f"{PACKAGE}/no_package/x.py"
            done = subprocess.run(
                [*command, f"--stdin-filename={path}", "-"],
                input=text, capture_output=True, text=True, cwd=ROOT,
            )  # fmt: skip
            assert code in done.stdout, (code, text, done.stdout, done.stderr)
