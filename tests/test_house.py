"""The plan of the package: which files may import which, where tests live, and how families are dispatched."""

import ast
import functools
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import llmbrain
from llmbrain.registry import Registry

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "llmbrain"
TESTS = ROOT / "tests"
FILES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in PACKAGE.rglob("*.py")
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imported(name, tree=None):
    """Modules of the package that a module imports, those inside functions included."""
    tree = tree or TREES[name]
    package = name if FILES.get(name, Path()).name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in FILES:
                    yield inner
                elif base in FILES:
                    yield base


GRAPH = {name: set(imported(name)) - {name} for name in FILES}


def find_cycle(graph):
    """A list of modules that import one another in a circle, or nothing."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :] + [name]
        if name in done:
            return None
        path.append(name)
        found = next(filter(None, map(visit, sorted(graph[name]))), None)
        path.pop()
        done.add(name)
        return found

    return next(filter(None, map(visit, sorted(graph))), None)


def test_the_search_for_cycles_finds_one():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_imports_are_resolved():
    assert "llmbrain.exceptions" in GRAPH["llmbrain.registry"]
    tree = ast.parse("def f():\n    from ..models import sites\n    from . import mask")
    assert set(imported("llmbrain.masks.files", tree)) == {"llmbrain.models.sites", "llmbrain.masks.mask"}


def test_no_two_files_import_each_other():
    pairs = {tuple(sorted((a, b))) for a, targets in GRAPH.items() for b in targets if a in GRAPH[b]}
    assert pairs == set()


def test_no_files_import_one_another_in_a_circle():
    assert find_cycle(GRAPH) is None


def registries():
    """Every registry of the package: ``{(module, variable): registry}``, each under the module that makes it."""
    for info in pkgutil.walk_packages(llmbrain.__path__, "llmbrain."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if isinstance(value, Registry) and _assigns(info.name, name):
                yield f"{info.name}.{name}", value


def _assigns(module, name):
    targets = [t for node in TREES[module].body if isinstance(node, ast.Assign) for t in node.targets]
    return any(isinstance(t, ast.Name) and t.id == name for t in targets)


REGISTRIES = dict(registries())


@pytest.mark.parametrize("path", REGISTRIES)
def test_families_describe_their_members(path):
    """Every member has a name that can be typed in a shell, and a line that says what it is."""
    family = REGISTRIES[path]
    assert len(family) > 0
    for name, member in family.items():
        assert re.fullmatch(r"[a-z0-9][\w+. -]*", name), name
        assert member.summary.endswith("."), (name, member.summary)


@pytest.mark.parametrize("path", REGISTRIES)
def test_families_answer_unknown_names_with_the_choices(path):
    family = REGISTRIES[path]
    first = next(iter(family))
    with pytest.raises(llmbrain.exceptions.ParameterError, match=re.escape(repr(first))):
        family[first + "x"]


# Small families whose members are tested by name, and in which folder.
TESTED_BY_NAME = {
    "llmbrain.lesions.dose.DOSES": "lesions",
    "llmbrain.lesions.positions.POSITIONS": "lesions",
    "llmbrain.networks.localizer.localize.UNITS": "networks",
    "llmbrain.networks.options.ENGINES": "networks",
    "llmbrain.plotting.carpet.ORDERS": "plotting",
    "llmbrain.topography.order.METHODS": "topography",
}


@pytest.mark.parametrize("path", REGISTRIES)
def test_families_have_a_contract_test(path):
    """Some test runs over all members, so that a new member is tested without another line."""
    sources = {p.relative_to(TESTS): p.read_text(encoding="utf-8") for p in TESTS.rglob("test_*.py")}
    if path in TESTED_BY_NAME:
        room = "".join(source for name, source in sources.items() if name.parts[0] == TESTED_BY_NAME[path])
        assert [name for name in REGISTRIES[path] if f'"{name}"' not in room] == []
        return
    family = r"stations\(\)" if path.endswith(".STATIONS") else path.rpartition(".")[2]
    runs_over = re.compile(rf"(parametrize\([^\n]*|for \w+ in [\w.]*)\b{family}")
    assert [name for name, source in sources.items() if runs_over.search(source)], path


@functools.cache
def members_and_homes():
    """Every registered name, with the modules that may compare it: those that make the registry or add to it."""
    homes = {}
    for path, family in REGISTRIES.items():
        variable = path.rpartition(".")[2]
        adds = re.compile(rf"^@{variable}\.register|^{variable} = ", re.MULTILINE)
        here = {name for name, file in FILES.items() if adds.search(file.read_text(encoding="utf-8"))}
        for member in family:
            homes.setdefault(member, set()).update(here)
    return homes


def compared(tree):
    """Strings that a module compares something with, by ``==``, ``!=``, ``in`` a literal, or a ``match`` case."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq | ast.In | ast.NotIn):
            # A string on the left of "in" is looked up in something; it is no choice between members.
            sides = node.comparators if isinstance(node.ops[0], ast.In | ast.NotIn) else [node.left, *node.comparators]
            for side in sides:
                parts = side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]
                yield from (p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str))
        elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            yield node.value.value


# Words that mean the same whatever they are a value of, though a member of some family is called so too.
COMMON = {
    "auto": "the package chooses",
    "all": "no selection",
    "none": "nothing is done",
}
# Comparisons with a word that is also a member's name of another family, and what the word means there.
WORDS = {
    ("llmbrain.networks.scope", "layer"): "a scope of decomposition",
    ("llmbrain.networks.base", "model"): "a scope of decomposition",
    ("llmbrain.networks.options", "model"): "a scope of decomposition",
    ("llmbrain.networks.scope", "model"): "a scope of decomposition",
    ("llmbrain.networks.result", "mlp"): "the usual site is left out of the name of networks",
    ("llmbrain.pipeline.whole", "threshold"): "an argument",
    ("llmbrain.reporting.stations.pruned", "bytes"): "a column that is shown as a size",
    ("llmbrain.plotting.matrices", "correlation"): "a label that gets its range",
}


def test_comparisons_are_found():
    tree = ast.parse("a == 'x' or b in ('y', 'z') or 'w' in c\nmatch d:\n    case 'v':\n        pass")
    assert sorted(map(str, compared(tree))) == ["v", "x", "y", "z"]


@pytest.mark.parametrize("name", FILES)
def test_families_are_not_dispatched_by_comparing_names(name):
    """A member declares what it needs, so that no other module has to know its name."""
    homes = members_and_homes()
    found = {word for word in compared(TREES[name]) if word in homes and name not in homes[word]}
    assert found - set(COMMON) - {word for (module, word) in WORDS if module == name} == set()


@pytest.mark.parametrize("name", FILES)
def test_only_one_module_opens_images(name):
    """Any other place could read an image whose axes are not layer, row and column."""
    opened = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute) and node.attr == "load"]
    opened = [node for node in opened if isinstance(node.value, ast.Name) and node.value.id in ("nib", "nibabel")]
    assert not opened or name == "llmbrain.images"


def test_only_rooms_list_their_names():
    """Inside a room, an underscore says which names stay in their file; a second list would go stale."""
    assert [name for name in FILES if FILES[name].name != "__init__.py" and _assigns(name, "__all__")] == []


def test_names_with_an_underscore_stay_in_their_file():
    found = []
    for name, tree in TREES.items():
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        found += [(name, alias.name) for node in nodes for alias in node.names if re.match("_(?!_)", alias.name)]
    assert found == []


# Rooms whose modules may share a file of tests, and why. Other modules are tested in tests/<room>/test_<module>.py.
SHARED_TESTS = {
    "llmbrain": "files and exceptions are tested where they are used",
    "llmbrain.cli": "commands are tested by running them",
    "llmbrain.dataset": "the folder is tested as a whole, by the BIDS validator too",
    "llmbrain.evaluation": "the same tokens must give the same loss in all modules",
    "llmbrain.lesions": "studies are tested from masks to tables",
    "llmbrain.masks": "files, maps and heads are ways to make a mask",
    "llmbrain.models": "one suite over all architectures",
    "llmbrain.networks.engines": "engines are compared with one another",
    "llmbrain.networks.localizer": "one planted design for all of it",
    "llmbrain.networks.meaning": "one planted recording for all of it",
    "llmbrain.pipeline": "the whole path is tested as the command `run`",
    "llmbrain.plotting": "one suite over all figures",
    "llmbrain.pruning": "one suite over all architectures",
    "llmbrain.pruning.formats": "folders are tested by loading them",
    "llmbrain.recording": "recordings are compared with plain forward passes",
    "llmbrain.reporting": "pages are tested as a whole",
    "llmbrain.reporting.stations": "pages are tested as a whole",
    "llmbrain.text": "texts are followed from files to tokens",
    "llmbrain.topography": "one planted order for all of it",
    "llmbrain.viewer": "the page is tested through its server and in a browser",
}


@pytest.mark.parametrize("name", [n for n, p in FILES.items() if not p.name.startswith("__")])
def test_modules_have_tests_in_the_mirrored_place(name):
    room, _, module = name.rpartition(".")
    here = TESTS.joinpath(*room.split(".")[1:])
    if not (here / f"test_{module}.py").is_file():
        assert room in SHARED_TESTS, f"tests/{here.relative_to(TESTS)}/test_{module}.py"
        assert list(here.glob("test_*.py")) or room in ("llmbrain.pipeline", "llmbrain.reporting.stations")


@pytest.mark.parametrize("path", sorted(p.relative_to(TESTS) for p in TESTS.glob("*/**/test_*.py")), ids=str)
def test_rooms_of_tests_are_rooms_of_the_package(path):
    assert (PACKAGE / path.parent).is_dir() or path.parts[0] == "faults"  # kinds of faults cross the rooms
