"""Names and modules of the package appear when they are asked for, and nothing else does."""

import subprocess
import sys

import pytest

import llmbrain


def test_rooms_are_there_without_an_import():
    code = "import llmbrain as lb; print(lb.pruning.SCORES.__class__.__name__, lb.lesions.LossTask.__name__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["Registry", "LossTask"]


@pytest.mark.parametrize("name", ["no_such_name", "_hidden", "__wrapped__"])
def test_other_names_are_absent(name):
    with pytest.raises(AttributeError, match=name):
        getattr(llmbrain, name)
    assert name not in dir(llmbrain)
