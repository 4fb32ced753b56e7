"""Networks in the form of tedana's output, which its viewer Rica opens."""

from pathlib import Path

import numpy as np

from ..dataset.layout import TEDANA
from ..exceptions import ParameterError
from ..files import save_img, write_text, write_tsv

__all__ = ["write_tedana"]

_REPORT = """\
Networks of {method}, written by llmbrain in the form of tedana's output. There are no echoes, so two columns of the
metrics have another meaning here: kappa is the excess kurtosis of the map (large if few neurons carry it), and rho is
1 - stability (0 if it is unknown). A volume is one token, so the power spectrum is in cycles per token. Networks that
are empty or unstable are rejected.
"""


def write_tedana(networks, folder):
    """Write networks into a folder that Rica, the viewer of tedana, opens.

    Parameters
    ----------
    networks : NetworkSet
        With time courses.
    folder : path-like
        Created if it is missing.

    Returns
    -------
    list of Path
        Maps in z, time courses of all runs one after the other, metrics, mask and a text.

    Raises
    ------
    ParameterError
        If the networks have no time courses.

    Examples
    --------
    >>> write_tedana(networks, "rica")  # doctest: +SKIP
    """
    import pandas as pd

    if networks.time_courses is None:
        raise ParameterError("These networks have no time courses, which Rica shows. Fit them again on a recording.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"ICA_{k:02d}" for k in range(len(networks))]
    metrics = networks.metrics
    table = pd.DataFrame(
        {
            "Component": names,
            "kappa": metrics["kurtosis"],
            "rho": 1 - metrics["stability"].fillna(1.0),
            "variance explained": 100 * metrics["variance"].fillna(0.0),
            "normalized variance explained": 100 * metrics["variance"].fillna(0.0),
            "classification": np.where(metrics["flagged"].astype(bool), "rejected", "accepted"),
            "classification_tags": np.where(metrics["flagged"].astype(bool), "Empty or unstable", "Stable"),
        }
    )
    paths = {kind: folder / name for kind, name in TEDANA.items()}
    save_img(paths["z_components"], networks.geometry.to_img(networks.z))
    save_img(paths["mask"], networks.geometry.mask_img)
    write_tsv(paths["mixing"], pd.DataFrame(np.concatenate(networks.time_courses), columns=names))
    write_tsv(paths["metrics"], table)
    write_text(paths["report"], _REPORT.format(method=networks.info.get("method", "an analysis")))
    return list(paths.values())
