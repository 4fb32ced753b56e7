"""The plan of the package: which files may import which, where tests live, and how families are dispatched."""

import ast
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


# Imports that may close a circle, with the reason. They stand inside a function.
LAZY = {
    ("llmbrain.geometry", "llmbrain.models.sites"): "NeuronGeometry.from_model is a convenience for users",
}


def test_the_search_for_cycles_finds_one():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_imports_are_resolved():
    assert "llmbrain.exceptions" in GRAPH["llmbrain.registry"]
    tree = ast.parse("def f():\n    from ..models import sites\n    from . import mask")
    assert set(imported("llmbrain.masks.files", tree)) == {"llmbrain.models.sites", "llmbrain.masks.mask"}


def test_no_two_files_import_each_other():
    pairs = {tuple(sorted((a, b))) for a, targets in GRAPH.items() for b in targets if a in GRAPH[b]}
    assert {pair for pair in pairs if pair not in LAZY and pair[::-1] not in LAZY} == set()


def test_no_files_import_one_another_in_a_circle():
    graph = {a: {b for b in targets if (a, b) not in LAZY} for a, targets in GRAPH.items()}
    assert find_cycle(graph) is None


@pytest.mark.parametrize(("importer", "target"), LAZY)
def test_exceptions_are_still_needed(importer, target):
    assert target in GRAPH[importer]


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
        assert re.fullmatch(r"[a-z0-9][\w+.-]*", name), name
        assert member.summary.endswith("."), (name, member.summary)


@pytest.mark.parametrize("path", REGISTRIES)
def test_families_answer_unknown_names_with_the_choices(path):
    family = REGISTRIES[path]
    first = next(iter(family))
    with pytest.raises(llmbrain.exceptions.ParameterError, match=re.escape(repr(first))):
        family[first + "x"]


@pytest.mark.parametrize("path", REGISTRIES)
def test_families_have_a_contract_test(path):
    """Some test is parametrized over all members, so that a new member is tested without another line."""
    variable = path.rpartition(".")[2]
    pattern = re.compile(rf"parametrize\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\b{variable}\b")
    assert [p for p in TESTS.rglob("test_*.py") if pattern.search(p.read_text(encoding="utf-8"))], path
