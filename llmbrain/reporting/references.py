"""References of the methods section: BibTeX entries, and how the text names them."""

import re
from importlib import resources

_ENTRIES = resources.files(__package__).joinpath("assets", "references.bib").read_text(encoding="utf-8")
REFERENCES = {re.search(r"{(\w+),", entry)[1]: entry.strip() for entry in _ENTRIES.split("\n\n")}

CITED_AS = {
    "varoquaux2010canica": "Varoquaux et al., 2010",
    "hyvarinen1999fastica": "Hyvärinen, 1999",
    "mensch2016compressed": "Mensch et al., 2016",
    "himberg2004icasso": "Himberg et al., 2004",
    "benjamini1995fdr": "Benjamini & Hochberg, 1995",
    "phipson2010permutation": "Phipson & Smyth, 2010",
    "westfall1993resampling": "Westfall & Young, 1993",
    "sun2024wanda": "Sun et al., 2024",
    "an2024flap": "An et al., 2024",
    "liu2025networks": "Liu et al., 2025a",
    "liu2025pruning": "Liu et al., 2025b",
    "fedorenko2010localizer": "Fedorenko et al., 2010",
    "alkhamissi2025localizer": "AlKhamissi et al., 2025",
    "storey2003significance": "Storey & Tibshirani, 2003",
    "nilearn": "Nilearn contributors",
    "pedregosa2011sklearn": "Pedregosa et al., 2011",
    "wolf2020transformers": "Wolf et al., 2020",
    "gorgolewski2016bids": "Gorgolewski et al., 2016",
}


def bibtex(keys):
    """Return the BibTeX entries of references.

    Parameters
    ----------
    keys : sequence of str
        Keys of the entries, e.g. ``an2024flap``.

    Returns
    -------
    str
    """
    return "\n\n".join(REFERENCES[key] for key in keys)
