"""The folder that Rica opens."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from planted import GEOMETRY, K

from llmbrain.exceptions import ParameterError
from llmbrain.networks import NetworkSet, write_tedana


def test_tedana_folder(fitted, tmp_path):
    networks = fitted.networks_
    written = write_tedana(networks, tmp_path / "rica")
    names = {path.name for path in written}
    assert names | {"llmbrain_tedana.json"} == {path.name for path in (tmp_path / "rica").iterdir()}
    # what Rica looks for in names, and the columns that it shows
    (z,) = (p for p in written if "ICA" in p.name and "stat-z_components.nii.gz" in p.name)
    (mixing,) = (p for p in written if "_mixing.tsv" in p.name)
    (metrics,) = (p for p in written if "_metrics.tsv" in p.name)
    assert sum("_mask.nii" in p.name for p in written) == 1 and sum(p.name == "report.txt" for p in written) == 1
    np.testing.assert_allclose(GEOMETRY.to_array(nib.load(z)), networks.z, rtol=1e-6)
    courses, table = pd.read_csv(mixing, sep="\t"), pd.read_csv(metrics, sep="\t")
    np.testing.assert_allclose(courses, np.concatenate(networks.time_courses), rtol=1e-4, atol=1e-4)
    assert table["Component"].tolist() == courses.columns.tolist() == [f"ICA_{k:02d}" for k in range(K)]
    np.testing.assert_allclose(table["variance explained"], 100 * fitted.variance_, rtol=1e-4)
    assert table[["kappa", "rho"]].notna().all().all()
    assert (table["classification"] == "rejected").to_numpy().nonzero()[0].tolist() == networks.flagged
    with pytest.raises(ParameterError, match="no time courses"):
        write_tedana(NetworkSet(networks.maps, GEOMETRY), tmp_path / "other")


def test_only_a_folder_of_tedana_is_replaced(fitted, tmp_path):
    networks = fitted.networks_
    write_tedana(networks, tmp_path / "rica")
    write_tedana(networks, tmp_path / "rica")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ParameterError):
        write_tedana(networks, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
