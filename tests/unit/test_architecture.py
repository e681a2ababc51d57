"""The rules of docs/architecture.md and the house rules, checked on the source files.

Imports are counted wherever they stand: inside functions and under TYPE_CHECKING too, because
either way one file knows about another. Each rule is a function of sources to a list of
complaints, so that the tests at the end can show, on sources in memory, that it can fail.
"""

import ast
import dataclasses
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import openmm_scoremd

ROOT = Path(__file__).parents[2]
PACKAGE = "openmm_scoremd"
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400


@dataclasses.dataclass(frozen=True)
class Source:
    """One file: its dotted module name (of a package, without ``__init__``) and its text."""

    module: str
    text: str
    is_package: bool = False

    @functools.cached_property
    def tree(self):
        return ast.parse(self.text)

    @property
    def part(self):
        """The row of the table it belongs to."""
        return part_of(self.module)

    def at(self, line, complaint):
        return f"{self.module}, line {line}: {complaint}"


def part_of(module):
    return module.split(".")[1] if "." in module else "__init__"


def read_package():
    sources = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        names = path.relative_to(ROOT).with_suffix("").parts
        is_package = names[-1] == "__init__"
        module = ".".join(names[:-1] if is_package else names)
        sources.append(Source(module, path.read_text(encoding="utf-8"), is_package))
    return sources


def read_table(text):
    """Return what each module may import, from the table of docs/architecture.md."""
    rows = re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|\s*$", text, flags=re.MULTILINE)
    everything = {module for module, _ in rows}
    table = {}
    for module, permission in rows:
        named = set(re.findall(r"`(\w+)`", permission))
        if permission.strip().startswith("all"):
            table[module] = everything - named
        elif named or permission.strip() == "nothing":
            table[module] = named
        else:
            raise ValueError(f"row of `{module}` says neither modules, 'nothing' nor 'all'")
    return table


# --- Names and imports -----------------------------------------------------------------------


def dynamic_import(node):
    """Return the name in ``import_module("name")`` or ``__import__("name")``, if it is one."""
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
        function = function.id if isinstance(function, ast.Name) else function
        if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return node.args[0].value
    return None


def import_statements(source) -> Iterator[tuple[int, str, str, str]]:
    """Yield line, module, name taken from it (or ""), and the name it gets in this file."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.split(".")[0]
                yield node.lineno, alias.name, "", local
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parents = source.module.split(".")
                kept = len(parents) - node.level + (1 if source.is_package else 0)
                module = ".".join(parents[:kept] + ([module] if module else []))
            for alias in node.names:
                yield node.lineno, module, alias.name, alias.asname or alias.name
        elif name := dynamic_import(node):
            yield node.lineno, name, "", ""


def imports_within(source, modules) -> Iterator[tuple[int, str]]:
    """Yield line and module of every import from the package."""
    for line, module, name, _ in import_statements(source):
        if module.split(".")[0] == PACKAGE:
            submodule = f"{module}.{name}"
            yield line, submodule if submodule in modules else module


def dotted_names(source) -> Iterator[tuple[int, str]]:
    """Yield every imported or used name in full: ``j.load`` after ``from torch import jit as j``
    is ``torch.jit.load``.
    """
    full = {}
    for line, module, name, local in import_statements(source):
        yield line, f"{module}.{name}" if name else module
        if name:
            full[local] = f"{module}.{name}"
        elif local and local != module.split(".")[0]:
            full[local] = module
    inner = set()
    for node in ast.walk(source.tree):  # outer nodes first, so that a.b.c is not also a.b and a
        names, base = [], node
        while isinstance(base, ast.Attribute):
            names.append(base.attr)
            base = base.value
            inner.add(base)
        if isinstance(base, ast.Name) and node not in inner:
            yield base.lineno, ".".join([full.get(base.id, base.id), *reversed(names)])


def import_graph(sources):
    modules = {source.module for source in sources}
    return {
        source.module: {module for _, module in imports_within(source, modules)} - {source.module}
        for source in sources
    }


# --- Rules about the whole package -----------------------------------------------------------


def missing_rows(sources, table):
    parts = {source.part for source in sources}
    unlisted = [f"`{part}` has no row in docs/architecture.md" for part in sorted(parts - {*table})]
    stale = [f"the row of `{row}` describes nothing" for row in sorted({*table} - parts)]
    return unlisted + stale


def wrong_directions(sources, table):
    modules = {source.module for source in sources}
    return [
        source.at(line, f"`{source.part}` may not import `{part_of(module)}` ({module})")
        for source in sources
        for line, module in imports_within(source, modules)
        if part_of(module) not in table.get(source.part, set()) | {source.part}
    ]


def cycles(sources):
    # The package's own __init__ names everything, but loads nothing; nobody may import it.
    graph = {module: needs for module, needs in import_graph(sources).items() if module != PACKAGE}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def reaches(sources, starts, forbidden):
    """Complain about chains of imports from the parts ``starts`` to the parts ``forbidden``."""
    graph = import_graph(sources)
    graph[PACKAGE] = set()
    complaints = []
    for start in sorted(module for module in graph if part_of(module) in starts):
        chains = [[start]]
        seen = {start}
        for chain in chains:
            if part_of(chain[-1]) in forbidden:
                complaints.append(" -> ".join(chain))
                continue
            # Importing a.b.c also runs the __init__ of a and of a.b.
            names = chain[-1].split(".")
            parents = {".".join(names[:i]) for i in range(1, len(names))} & {*graph}
            fresh = (graph.get(chain[-1], set()) | parents) - seen
            seen |= fresh
            chains += [[*chain, module] for module in sorted(fresh)]
    return complaints


def missing_init_files(sources):
    """Folders without ``__init__.py`` work in a checkout and are left out of an install."""
    packages = {source.module for source in sources if source.is_package}
    folders = {source.module.rpartition(".")[0] for source in sources if not source.is_package}
    return [f"{folder} has no __init__.py" for folder in sorted(folders - packages)]


# --- Rules about one file --------------------------------------------------------------------


def owned(owners, *, prefixes=(), words=()):
    """Make a rule: names under ``prefixes`` or containing ``words`` occur only in ``owners``."""

    def rule(source):
        if source.module in {f"{PACKAGE}.{owner}" for owner in owners}:
            return []
        used = {
            (line, name)
            for line, name in dotted_names(source)
            if any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)
            or not {*name.split(".")}.isdisjoint(words)
        }
        place = " or ".join(owners) or "nowhere"
        return [source.at(line, f"{name} belongs in {place}") for line, name in sorted(used)]

    return rule


torch_jit = owned(["torchscript"], prefixes=["torch.jit"])
force_classes = owned(
    ["force"], words=["openmmtorch", "TorchForce", "PythonForce", "PythonTorchForce"]
)
matplotlib = owned(["analysis.report.plots"], prefixes=["matplotlib", "mpl_toolkits", "pylab"])
print_calls = owned(["cli", "cli_commands", "cli_ecosystem"], prefixes=["print"])
dask = owned(["campaign.cluster"], prefixes=["dask", "distributed"])
unsafe_modules = owned(
    [],
    prefixes=["torch.load", "torch.save", "torch.serialization"],
    words=[
        "pickle",
        "_pickle",
        "cloudpickle",
        "dill",
        "joblib",
        "marshal",
        "read_pickle",
        "shelve",
    ],
)


def unpickling(source):
    complaints = unsafe_modules(source)
    for node in ast.walk(source.tree):
        match node:
            case ast.keyword(arg="allow_pickle") if ast.unparse(node.value) != "False":
                complaints.append(source.at(node.value.lineno, "allow_pickle is not False"))
            # Lightning's Fabric.load and .save are torch.load and torch.save.
            case ast.Attribute(attr="load" | "save") if "fabric" in ast.unparse(node.value).lower():
                complaints.append(source.at(node.lineno, f"Fabric.{node.attr} pickles"))
    return complaints


def hidden_imports(source):
    """Imports of computed names would get past every other rule."""
    if source.is_package:
        return []
    return [
        source.at(node.lineno, "import of a computed name")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
        and dynamic_import(node) is None
    ]


def assertions(source):
    return [
        source.at(node.lineno, "assert (raise an error of errors.py; python -O drops asserts)")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Assert)
    ]


def swallowed_errors(source):
    """Translating any error of a foreign reader into one of errors.py is fine; going on is not."""
    complaints = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and not isinstance(node.body[-1], ast.Raise):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = [ast.unparse(one).split(".")[-1] if one else "everything" for one in caught]
            broad = {*names} & {"everything", "Exception", "BaseException"}
            complaints += [
                source.at(node.lineno, f"catches {name} and does not end in raise")
                for name in sorted(broad)
            ]
    return complaints


def functions(source):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(source.tree) if isinstance(node, kinds)]


def keyword_swallowers(source):
    lambdas = [node for node in ast.walk(source.tree) if isinstance(node, ast.Lambda)]
    return [
        source.at(node.lineno, f"**{node.args.kwarg.arg} swallows misspelt options")
        for node in [*functions(source), *lambdas]
        if node.args.kwarg
    ]


def missing_docstrings(source):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [
        source.at(node.lineno, f"{node.name} has no docstring")
        for node in source.tree.body
        if isinstance(node, kinds)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and "overload" not in [ast.unparse(one).split(".")[-1] for one in node.decorator_list]
    ]


def long_functions(source):
    complaints = []
    for node in functions(source):
        lines = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node):
            lines -= node.body[0].end_lineno - node.body[0].lineno + 1
        if lines > MAX_FUNCTION_LINES:
            complaints.append(source.at(node.lineno, f"{node.name} has {lines} lines"))
    return complaints


def long_file(source):
    lines = len(source.text.splitlines())
    return [source.at(lines, "too long")] if lines > MAX_FILE_LINES else []


# --- The package obeys them ------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources():
    return read_package()


@pytest.fixture(scope="module")
def table():
    return read_table((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


def expect_none(complaints, rule):
    if complaints:
        pytest.fail("\n  ".join([f"{rule}:", *dict.fromkeys(complaints)]), pytrace=False)


def test_every_module_has_a_row_and_every_row_a_module(sources, table):
    expect_none(missing_rows(sources, table), "docs/architecture.md lists what there is")


def test_import_directions(sources, table):
    expect_none(wrong_directions(sources, table), "imports follow docs/architecture.md")


def test_no_cycles(sources):
    expect_none(cycles(sources), "no two files import each other, not even indirectly")


def test_an_exported_file_runs_alone(sources):
    complaints = reaches(
        sources, {"force", "model_file", "simulation"}, {"models", "training", "export", "cli"}
    )
    expect_none(complaints, "simulating needs neither networks nor training, even indirectly")


def test_every_folder_is_a_package(sources):
    expect_none(missing_init_files(sources), "every folder has an __init__.py")


FILE_RULES = {
    torch_jit: "torch.jit only in torchscript",
    force_classes: "TorchForce and PythonForce only in force",
    matplotlib: "matplotlib only in analysis.report.plots",
    print_calls: "print only in cli, cli_commands and cli_ecosystem (logging elsewhere)",
    dask: "dask only in campaign.cluster",
    unpickling: "pickle, in any form, nowhere",
    hidden_imports: "imports by computed names only in __init__ files",
    assertions: "no assert statements",
    swallowed_errors: "no broad except, unless it ends in raise",
    keyword_swallowers: "no **kwargs",
    missing_docstrings: "public functions and classes have docstrings",
    long_functions: f"functions have at most {MAX_FUNCTION_LINES} lines without the docstring",
    long_file: f"files have at most {MAX_FILE_LINES} lines",
}


@pytest.mark.parametrize("rule", FILE_RULES, ids=FILE_RULES.values())
def test_house_rule(rule, sources):
    complaints = [complaint for source in sources for complaint in rule(source)]
    expect_none(complaints, FILE_RULES[rule])


def modules_loaded_by(statement):
    code = f"{statement}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["model_file", "force", "simulation.replicas"])
def test_simulating_loads_neither_networks_nor_training(module):
    loaded = modules_loaded_by(f"import {PACKAGE}.{module}")
    assert f"{PACKAGE}.{module}" in loaded
    unwanted = {f"{PACKAGE}.models", f"{PACKAGE}.training", "lightning", "matplotlib"}
    assert loaded.isdisjoint(unwanted)


class TestPublicNames:
    def test_importing_the_package_loads_nothing_else(self):
        loaded = modules_loaded_by(f"import {PACKAGE}")
        assert {name for name in loaded if name.startswith(PACKAGE)} == {PACKAGE}
        assert loaded.isdisjoint({"torch", "openmm", "numpy", "mdtraj"})

    @pytest.mark.parametrize("name", openmm_scoremd.__all__)
    def test_name_is_there(self, name):
        assert getattr(openmm_scoremd, name).__name__ == name
        assert name in dir(openmm_scoremd)

    def test_type_checkers_see_the_names_where_they_are(self):
        statements = import_statements(Source(PACKAGE, Path(openmm_scoremd.__file__).read_text()))
        seen = {name: module for _, module, name, _ in statements if module.startswith(PACKAGE)}
        home = {name: f"{PACKAGE}.{module}" for name, module in openmm_scoremd._HOME.items()}
        assert seen == home
        assert sorted(openmm_scoremd.__all__) == sorted(home)

    def test_unknown_name(self):
        with pytest.raises(AttributeError, match="no attribute 'ScoreModelfile'"):
            _ = openmm_scoremd.ScoreModelfile

    def test_version_is_that_of_the_installed_package(self):
        declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
        assert openmm_scoremd.__version__ == declared[1]


# --- Each rule can fail ----------------------------------------------------------------------

TABLE = """
| module | holds | may import |
|---|---|---|
| `errors` | all `errors` | nothing |
| `models` | networks | `errors` |
| `force` | the force; `x` | `errors` |
| `cli` | command | all; nobody imports it |
| `__init__` | names | all but `cli` |
"""


def made(**texts):
    """Return sources of a small package; ``models__base`` is the module ``models.base``."""
    files = {"": "", "errors": "", "models": "", "force": "", "cli": ""} | texts
    packages = {name.rpartition("__")[0] for name in files if "__" in name} | {""}
    return [
        Source(f"{PACKAGE}.{name.replace('__', '.')}".rstrip("."), text, name in packages)
        for name, text in files.items()
    ]


def test_table_is_read():
    everything = {"errors", "models", "force", "cli", "__init__"}
    assert read_table(TABLE) == {
        "errors": set(),
        "models": {"errors"},
        "force": {"errors"},
        "cli": everything,
        "__init__": everything - {"cli"},
    }


def test_unreadable_row_is_an_error():
    with pytest.raises(ValueError, match="`force`"):
        read_table(TABLE.replace("| the force; `x` | `errors` |", "| the force | some |"))


def test_the_real_table_is_not_empty(table):
    assert table["errors"] == set()
    assert "training" not in table["force"] | table["simulation"] | table["model_file"]
    assert len(table) > 15


def test_rows_and_modules_are_compared():
    assert missing_rows(made(), read_table(TABLE)) == []
    assert len(missing_rows(made(extra=""), read_table(TABLE))) == 1
    assert len(missing_rows(made()[:-1], read_table(TABLE))) == 1


ALLOWED = {
    "models": "from openmm_scoremd.errors import ScoreMDError",
    "models__base": "from openmm_scoremd.models.mlp import MLP\nimport torch",
    "cli": "from openmm_scoremd import force, models",
    "": "from openmm_scoremd.models.base import Base",
}
FORBIDDEN = {
    "from another part": {"errors": "import openmm_scoremd.forces.create"},
    "by a name": {"force": "from openmm_scoremd.models import load"},
    "of a module": {"force": "from openmm_scoremd import models"},
    "relative": {"force": "from .models.base import Base"},
    "relative from below": {"models__base": "from ..force import create_force"},
    "in a function": {"force": "def f():\n    import openmm_scoremd.models.base"},
    "for type checking": {"force": "if TYPE_CHECKING:\n    from openmm_scoremd import models"},
    "by import_module": {"force": "importlib.import_module('openmm_scoremd.models')"},
    "of the package": {"force": "from openmm_scoremd import ScoreModelFile"},
    "of the command": {"": "from openmm_scoremd import cli"},
}


@pytest.mark.parametrize("texts", FORBIDDEN.values(), ids=FORBIDDEN)
def test_wrong_direction_is_found(texts):
    assert len({*wrong_directions(made(**texts), read_table(TABLE))}) == 1


def test_right_directions_pass():
    sources = made(models__mlp="", **ALLOWED)
    assert wrong_directions(sources, read_table(TABLE)) == []
    assert cycles(sources) == []
    assert reaches(sources, {"force"}, {"models"}) == []


def test_cycle_is_found():
    sources = made(
        models__a="from openmm_scoremd.models.b import x",
        models__b="def f():\n    from openmm_scoremd.models import c",
        models__c="import openmm_scoremd.models.a",
    )
    assert len(cycles(sources)) == 1
    for name in "abc":
        assert f"{PACKAGE}.models.{name}" in cycles(sources)[0]


def test_indirect_import_is_found():
    direct = "from openmm_scoremd.middle import x"
    to_models = "import openmm_scoremd.models.base"
    found = reaches(made(force=direct, middle=to_models, models__base=""), {"force"}, {"models"})
    assert f"{PACKAGE}.force -> {PACKAGE}.middle -> {PACKAGE}.models.base" in found
    # Importing part.file also runs part/__init__.py.
    through_init = made(force="import openmm_scoremd.part.file", part=to_models, part__file="")
    assert reaches(through_init, {"force"}, {"models"})


def test_missing_init_file_is_found():
    assert missing_init_files(made(models__base="")) == []
    assert len(missing_init_files(made(models__base="")[:2] + made(models__base="")[-1:])) == 1


LONG_BODY = "\n".join(f"    x{i} = {i}" for i in range(MAX_FUNCTION_LINES))
SHORT_BODY = "\n".join(f"    x{i} = {i}" for i in range(MAX_FUNCTION_LINES - 1))
CASES = [
    # rule, good, bad
    (torch_jit, "import torch\ntorch.nn.jit", "import torch\ntorch.jit.script(f)"),
    (torch_jit, "from jit import load", "from torch import jit as j\nj.load('x')"),
    (torch_jit, "import torch as jit", "import torch.jit"),
    (torch_jit, "'torch.jit'", "import torch as t\nt.jit.load('x')"),
    (force_classes, "NAMES = ('openmmtorch',)", "import openmmtorch"),
    (force_classes, "import openmm", "import openmm as mm\nmm.PythonForce(f)"),
    (force_classes, "create_force()", "from openmmtorch import TorchForce as Force"),
    (force_classes, "'TorchForce'", "importlib.import_module('openmmtorch')"),
    (matplotlib, "import math", "def f():\n    import matplotlib.pyplot as plt"),
    (matplotlib, "from openmm_scoremd.analysis.report import plots", "from matplotlib import cm"),
    (dask, "import dashing", "import dask.config"),
    (dask, "'distributed'", "importlib.import_module('distributed')"),
    (print_calls, "console.print(1)", "print(1)"),
    (print_calls, "'print'", "callback = print"),
    (unpickling, "import json", "import pickle"),
    (unpickling, "torch.tensor(1)", "torch.load('x', weights_only=True)"),
    (unpickling, "fabric.print('x')", "self.fabric.load('x')"),
    (unpickling, "from torch import nn", "from torch import save as s\ns(x, 'x')"),
    (unpickling, "np.load('x')", "np.load('x', allow_pickle=True)"),
    (unpickling, "np.load('x', allow_pickle=False)", "np.load('x', allow_pickle=flag)"),
    (hidden_imports, "importlib.import_module('torch')", "importlib.import_module(name)"),
    (assertions, "if not x: raise ValueError('x')", "assert x"),
    (swallowed_errors, "try: f()\nexcept OSError: pass", "try: f()\nexcept: pass"),
    (
        swallowed_errors,
        "try: f()\nexcept Exception as e: raise X() from e",
        "try: f()\nexcept Exception as e: log(e)",
    ),
    (swallowed_errors, "try: f()\nfinally: g()", "try: f()\nexcept (OSError, BaseException): pass"),
    (keyword_swallowers, "def f(*, x): g(**x)", "def f(**options): pass"),
    (keyword_swallowers, "f(**x)", "class A:\n    def f(self, **kwargs): pass"),
    (keyword_swallowers, "lambda x: x", "lambda **x: x"),
    (missing_docstrings, "def f():\n    'Do.'", "def f(): pass"),
    (missing_docstrings, "class _A: pass", "class A: pass"),
    (missing_docstrings, "@overload\ndef f(): ...", "async def f(): pass"),
    (long_functions, f"def f():\n{SHORT_BODY}", f"def f():\n{LONG_BODY}"),
    (
        long_functions,
        f'def f():\n    """a\n\n    b"""\n{SHORT_BODY}',
        f"class A:\n  def f():\n{LONG_BODY}",
    ),
    (long_file, "x = 1\n" * MAX_FILE_LINES, "x = 1\n" * (MAX_FILE_LINES + 1)),
]


@pytest.mark.parametrize(("rule", "good", "bad"), CASES)
def test_rule_tells_good_from_bad(rule, good, bad):
    assert rule(Source(f"{PACKAGE}.module", good)) == []
    assert rule(Source(f"{PACKAGE}.module", bad)), "not found"


def test_every_rule_is_shown_to_fail():
    assert {rule for rule, _, _ in CASES} == {*FILE_RULES}


@pytest.mark.parametrize(
    ("rule", "owner", "text"),
    [
        (torch_jit, "torchscript", "import torch.jit"),
        (force_classes, "force", "import openmmtorch"),
        (matplotlib, "analysis.report.plots", "import matplotlib"),
        (print_calls, "cli", "print(1)"),
        (hidden_imports, "", "importlib.import_module(name)"),
    ],
)
def test_owner_may(rule, owner, text):
    module = f"{PACKAGE}.{owner}".rstrip(".")
    assert rule(Source(module, text, is_package=not owner)) == []
    assert rule(Source(f"{PACKAGE}.else_", text))


def test_a_complaint_says_where():
    text = "import os\n\nassert os"
    assert assertions(Source(f"{PACKAGE}.data.toy", text))[0].startswith(
        "openmm_scoremd.data.toy, line 3: assert"
    )
