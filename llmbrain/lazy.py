"""Public names and modules of a package, imported when they are first used, so that the package opens fast."""

import sys
from importlib import import_module
from importlib.util import find_spec


def lazy_names(package, modules):
    """Make ``__all__``, ``__getattr__`` and ``__dir__`` of a package (PEP 562); ``modules`` holds the names in each."""
    where = {name: module for module, names in modules.items() for name in names}

    def find(name):
        if name in where:
            value = getattr(import_module(f".{where[name]}", package), name)
            setattr(sys.modules[package], name, value)
            return value
        if not name.startswith("_") and find_spec(f"{package}.{name}"):
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names():
        return sorted({*vars(sys.modules[package]), *where})

    return sorted(where), find, names
