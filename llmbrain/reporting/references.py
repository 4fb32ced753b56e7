"""References of the methods section: BibTeX entries, and how the text names them."""

__all__ = ["CITED_AS", "REFERENCES", "bibtex"]

REFERENCES = {
    "canica": """@article{varoquaux2010canica,
  author  = {Varoquaux, Ga{\\"e}l and Sadaghiani, Sepideh and Pinel, Philippe and Kleinschmidt, Andreas and
             Poline, Jean-Baptiste and Thirion, Bertrand},
  title   = {A group model for stable multi-subject {ICA} on {fMRI} datasets},
  journal = {NeuroImage}, volume = {51}, number = {1}, pages = {288--299}, year = {2010}
}""",
    "fastica": """@article{hyvarinen1999fastica,
  author  = {Hyv{\\"a}rinen, Aapo},
  title   = {Fast and robust fixed-point algorithms for independent component analysis},
  journal = {IEEE Transactions on Neural Networks}, volume = {10}, number = {3}, pages = {626--634}, year = {1999}
}""",
    "dictlearning": """@inproceedings{mensch2016compressed,
  author    = {Mensch, Arthur and Varoquaux, Ga{\\"e}l and Thirion, Bertrand},
  title     = {Compressed online dictionary learning for fast resting-state {fMRI} decomposition},
  booktitle = {IEEE International Symposium on Biomedical Imaging}, pages = {1282--1285}, year = {2016}
}""",
    "icasso": """@article{himberg2004icasso,
  author  = {Himberg, Johan and Hyv{\\"a}rinen, Aapo and Esposito, Fabrizio},
  title   = {Validating the independent components of neuroimaging time series via clustering and visualization},
  journal = {NeuroImage}, volume = {22}, number = {3}, pages = {1214--1222}, year = {2004}
}""",
    "fdr": """@article{benjamini1995fdr,
  author  = {Benjamini, Yoav and Hochberg, Yosef},
  title   = {Controlling the false discovery rate: a practical and powerful approach to multiple testing},
  journal = {Journal of the Royal Statistical Society B}, volume = {57}, number = {1}, pages = {289--300}, year = {1995}
}""",
    "permutation": """@article{phipson2010permutation,
  author  = {Phipson, Belinda and Smyth, Gordon K.},
  title   = {Permutation p-values should never be zero: calculating exact p-values when permutations are randomly
             drawn},
  journal = {Statistical Applications in Genetics and Molecular Biology}, volume = {9}, number = {1}, pages = {39},
  year    = {2010}
}""",
    "westfall": """@book{westfall1993resampling,
  author    = {Westfall, Peter H. and Young, S. Stanley},
  title     = {Resampling-based multiple testing: examples and methods for p-value adjustment},
  publisher = {Wiley}, year = {1993}
}""",
    "wanda": """@inproceedings{sun2024wanda,
  author    = {Sun, Mingjie and Liu, Zhuang and Bair, Anna and Kolter, J. Zico},
  title     = {A simple and effective pruning approach for large language models},
  booktitle = {International Conference on Learning Representations}, year = {2024}
}""",
    "flap": """@inproceedings{an2024flap,
  author    = {An, Yongqi and Zhao, Xu and Yu, Tao and Tang, Ming and Wang, Jinqiao},
  title     = {Fluctuation-based adaptive structured pruning for large language models},
  booktitle = {AAAI Conference on Artificial Intelligence}, volume = {38}, pages = {10865--10873}, year = {2024}
}""",
    "liunetworks": """@article{liu2025networks,
  author  = {Liu, Y. and Hu, X. and others},
  title   = {Brain-Inspired Exploration of Functional Networks and Key Neurons in Large Language Models},
  journal = {arXiv:2502.20408}, year = {2025}
}""",
    "liupruning": """@article{liu2025pruning,
  author  = {Liu, Y. and Hu, X. and others},
  title   = {Pruning Large Language Models by Identifying and Preserving Functional Networks},
  journal = {arXiv:2508.05239}, year = {2025}
}""",
    "localizer": """@article{fedorenko2010localizer,
  author  = {Fedorenko, Evelina and others},
  title   = {New method for {fMRI} investigations of language: defining {ROI}s functionally in individual subjects},
  journal = {Journal of Neurophysiology}, volume = {104}, number = {2}, pages = {1177--1194}, year = {2010}
}""",
    "llmlocalizer": """@inproceedings{alkhamissi2025localizer,
  author    = {AlKhamissi, Badr and others},
  title     = {The {LLM} language network: a neuroscientific approach for identifying causally task-relevant units},
  booktitle = {NAACL}, note = {arXiv:2411.02280}, year = {2025}
}""",
    "storey": """@article{storey2003significance,
  author  = {Storey, John D. and Tibshirani, Robert},
  title   = {Statistical significance for genomewide studies},
  journal = {Proceedings of the National Academy of Sciences}, volume = {100}, pages = {9440--9445}, year = {2003}
}""",
    "nilearn": """@software{nilearn,
  author = {{Nilearn contributors}},
  title  = {nilearn}, url = {https://github.com/nilearn/nilearn}, doi = {10.5281/zenodo.8397156}
}""",
    "sklearn": """@article{pedregosa2011sklearn,
  author  = {Pedregosa, Fabian and others},
  title   = {Scikit-learn: machine learning in {Python}},
  journal = {Journal of Machine Learning Research}, volume = {12}, pages = {2825--2830}, year = {2011}
}""",
    "transformers": """@inproceedings{wolf2020transformers,
  author    = {Wolf, Thomas and others},
  title     = {Transformers: state-of-the-art natural language processing},
  booktitle = {EMNLP: System Demonstrations}, pages = {38--45}, year = {2020}
}""",
    "bids": """@article{gorgolewski2016bids,
  author  = {Gorgolewski, Krzysztof J. and others},
  title   = {The brain imaging data structure, a format for organizing and describing outputs of neuroimaging
             experiments},
  journal = {Scientific Data}, volume = {3}, pages = {160044}, year = {2016}
}""",
}  # fmt: skip

CITED_AS = {
    "canica": "Varoquaux et al., 2010", "fastica": "Hyvärinen, 1999", "dictlearning": "Mensch et al., 2016",
    "icasso": "Himberg et al., 2004", "fdr": "Benjamini & Hochberg, 1995", "permutation": "Phipson & Smyth, 2010",
    "wanda": "Sun et al., 2024", "westfall": "Westfall & Young, 1993", "flap": "An et al., 2024",
    "nilearn": "Nilearn contributors", "sklearn": "Pedregosa et al., 2011", "transformers": "Wolf et al., 2020",
    "bids": "Gorgolewski et al., 2016", "liunetworks": "Liu et al., 2025a", "liupruning": "Liu et al., 2025b",
    "localizer": "Fedorenko et al., 2010", "llmlocalizer": "AlKhamissi et al., 2025",
    "storey": "Storey & Tibshirani, 2003",
}  # fmt: skip


def bibtex(keys):
    """BibTeX entries of references.

    Parameters
    ----------
    keys : sequence of str
        Keys of :data:`REFERENCES`.

    Returns
    -------
    str
    """
    return "\n\n".join(REFERENCES[key] for key in keys)
