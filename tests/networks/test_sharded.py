"""Networks in three processes with uneven shares against one process."""

import shutil

import numpy as np
import pytest
import sharded_networks
from launching import launch
from recorded import quiet
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The same recording twice."""
    folder = tmp_path_factory.mktemp("studies")
    text = [f"The {n} herons stood in the river and ate {n + 1} of the restless fish." for n in range(12)]
    quiet(tiny_model("llama"), tiny_tokenizer(), text, folder / "one", tokens_per_run=160)
    shutil.copytree(folder / "one", folder / "three")
    return folder / "one", folder / "three"


@pytest.mark.filterwarnings("ignore")
def test_three_processes_find_what_one_finds(tmp_path, studies):
    ended = launch([sharded_networks.__file__, tmp_path, studies[1]], n=3)
    assert [code for code, _, _ in ended] == [0, 0, 0], ended
    three = [dict(np.load(tmp_path / f"{k}-{k == 0}.npz")) for k in range(3)]
    one = sharded_networks.compute(studies[0])
    for name, expected in one.items():
        for found in three[1:]:  # all processes have the same bits
            np.testing.assert_array_equal(found[name], three[0][name], err_msg=name)
        found = three[0][name]
        if name.endswith("exact") or found.dtype.kind in "bi":
            np.testing.assert_array_equal(found, expected, err_msg=name)
        elif name.endswith("maps"):
            r = [np.corrcoef(a, b)[0, 1] for a, b in zip(found, expected)]
            assert min(r) >= 0.9999, (name, r)
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3, err_msg=name)
    files = [{p.relative_to(study) for p in study.rglob("*") if p.is_file()} for study in studies]
    assert files[0] == files[1]
