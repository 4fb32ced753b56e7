"""The package as a whole: it imports fast, is complete when built, and documents what it offers."""

import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

import llmbrain

ROOT = Path(__file__).resolve().parents[1]
MODULES = [m.name for m in pkgutil.walk_packages(llmbrain.__path__, "llmbrain.") if not m.name.endswith("__main__")]


def run_python(code, **kwargs):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **kwargs).stdout


def test_import_is_fast_and_brings_no_heavy_library():
    code = (
        "import sys, time; start = time.perf_counter(); import llmbrain; took = time.perf_counter() - start;"
        "heavy = {'torch', 'transformers', 'nilearn', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules);"
        "print(took, sorted(heavy))"
    )
    took, heavy = run_python(code).split(maxsplit=1)
    assert float(took) < 0.5
    assert heavy.strip() == "[]"


@pytest.mark.parametrize("name", [n for n in llmbrain.__all__ if n != "__version__"])
def test_every_public_name_is_there(name):
    assert callable(getattr(llmbrain, name))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = llmbrain.nonsense


def test_every_package_is_listed_for_the_wheel():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {"llmbrain", *(m.name for m in pkgutil.walk_packages(llmbrain.__path__, "llmbrain.") if m.ispkg)}
    assert listed == found | {"llmbrain.data"}


def requirements(section, key):
    """Names and lowest versions that setup.cfg declares under one key."""
    config = ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    lines = [line for line in config[section][key].split("\n") if line and not line.startswith("%")]
    return dict((re.split(r"[>=]+", line) + [""])[:2] for line in lines)


def pins(name):
    """Packages and versions of a file of constraints; of several versions, that of the newer Pythons."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [re.match(r"([\w-]+)==([\w.]+)(.*)", line) for line in lines if line and not line.startswith("#")]
    return {match[1].lower(): match[2] for match in found if "<" not in match[3]}


def test_the_oldest_versions_that_are_tested_are_those_that_are_declared():
    declared = {**requirements("options", "install_requires"), **requirements("options.extras_require", "gguf")}
    assert pins("constraints-oldest.txt") == declared


def test_what_is_imported_is_declared():
    packages = {"sklearn": "scikit-learn", "PIL": "pillow", "markupsafe": "jinja2", "joblib": "scikit-learn"}
    packages |= dict.fromkeys(("tokenizers", "huggingface_hub"), "transformers")
    optional = [name for extra in ("hub", "eval", "view") for name in requirements("options.extras_require", extra)]
    declared = {*requirements("options", "install_requires"), *(name.replace("-", "_") for name in optional)}
    for path in (ROOT / "llmbrain").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            found += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {n.partition(".")[0] for n in found} - set(sys.stdlib_module_names) - {"llmbrain", "gguf"}:
                assert packages.get(name, name) in declared, (path.name, name)


def test_hooks_run_the_versions_of_the_constraints():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    hooks = re.findall(r'"([\w-]+)==([\w.]+)"', text)
    assert {name for name, _ in hooks} == {"ruff", "import-linter"}
    assert all(pins("constraints.txt")[name] == version for name, version in hooks)


def test_everything_that_is_declared_is_pinned():
    names = set(requirements("options", "install_requires"))
    for extra in ("gguf", "eval", "view", "dev", "docs", "notebooks"):
        names |= set(requirements("options.extras_require", extra))
    assert {name.lower() for name in names} - set(pins("constraints.txt")) == set()


@pytest.mark.slow
def test_a_built_wheel_works_outside_the_checkout(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("llmbrain-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import llmbrain; from llmbrain import load_corpus;"
        "print(llmbrain.__file__); print(len(load_corpus('demo')), len(load_corpus('demo', split='heldout')))"
    )
    out = run_python(code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")})
    where, counts = out.strip().splitlines()
    assert where.startswith(str(tmp_path))
    n_train, n_heldout = map(int, counts.split())
    assert n_train >= 40 and n_heldout >= 6


def public_objects():
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name, obj in vars(module).items():
            if name.startswith("_") or not (inspect.isfunction(obj) or inspect.isclass(obj)):
                continue
            if obj.__module__ == module_name:
                yield f"{module_name}.{name}"


# GL08: no docstring, PR02: unknown parameters, SS01/SS03: no summary, or one without a full stop.
DOCSTRING_RULES = {"GL08", "PR02", "SS01", "SS03"}
# PR01: parameters that are not documented. What a user meets first documents all of them.
PUBLIC_RULES = DOCSTRING_RULES | {"PR01"}


@pytest.mark.parametrize("path", sorted(public_objects()))
def test_docstrings_follow_numpydoc(path):
    from numpydoc.validate import validate

    module, name = path.rsplit(".", 1)
    is_public = name in llmbrain.__all__ and getattr(llmbrain, name) is getattr(sys.modules[module], name)
    rules = PUBLIC_RULES if is_public else DOCSTRING_RULES
    assert [(code, text) for code, text in validate(path)["errors"] if code in rules] == []
