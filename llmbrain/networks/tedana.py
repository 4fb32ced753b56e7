"""Networks in the form of tedana's output, which its viewer Rica reads."""

import numpy as np

from ..dataset.layout import TEDANA
from ..exceptions import ParameterError
from ..files import atomic_dir, check_output_folder, mark_folder, save_img, write_text, write_tsv

MARKER = "llmbrain_tedana.json"

_REPORT = """\
Networks of {method}, written by llmbrain in the form of tedana's output. There are no echoes, so two columns of the
metrics have another meaning here: kappa is the excess kurtosis of the map (large if few neurons carry it), and rho is
1 - stability (0 if it is unknown). A volume is one token, so the power spectrum is in cycles per token. Networks that
are empty or unstable are rejected.
"""


def write_tedana(networks, folder):
    """Write networks into a folder in the form that Rica, the viewer of tedana, reads.

    Parameters
    ----------
    networks : NetworkSet
        With time courses.
    folder : path-like
        Missing, empty, or written by this function before.

    Returns
    -------
    list of Path
        Maps in z, time courses of all runs one after the other, metrics, mask and a text.

    Raises
    ------
    ParameterError
        If the networks have no time courses, or the folder holds other files.

    Examples
    --------
    >>> write_tedana(networks, "rica")  # doctest: +SKIP
    """
    import pandas as pd

    if networks.time_courses is None:
        raise ParameterError("These networks have no time courses, which Rica shows. Fit them again on a recording.")
    folder = check_output_folder(folder, MARKER)
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
    with atomic_dir(folder) as part:
        save_img(part / TEDANA["z_components"], networks.geometry.to_img(networks.z))
        save_img(part / TEDANA["mask"], networks.geometry.mask_img)
        write_tsv(part / TEDANA["mixing"], pd.DataFrame(np.concatenate(networks.time_courses), columns=names))
        write_tsv(part / TEDANA["metrics"], table)
        write_text(part / TEDANA["report"], _REPORT.format(method=networks.info.get("method", "an analysis")))
        mark_folder(part, MARKER, {"form": "tedana"})
    return [folder / name for name in TEDANA.values()]
