"""One study: a model, a corpus, and the folder that holds everything made from them."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import __version__
from ..exceptions import DatasetError
from ..files import read_json, save_img, write_json, write_text, write_tsv
from .checks import read_sidecar
from .layout import BIDSIGNORE, bids_label, file_name

__all__ = ["Study"]

BIDS_VERSION = "1.10.0"
_IDENTITY = {"model": ("weights_hash", "id"), "corpus": ("hash", "name")}  # the first that both know decides

README = """\
Recordings of a language model in the layout of a BIDS derivative, written by llmbrain.

Vocabulary: a subject is a model ({model}), a session is a checkpoint of it, a task is a corpus ({corpus}), a run is a
block of documents. A volume of a run is the state of all recorded neurons at one token, a voxel is one neuron, and the
repetition time of 1 is one token, not a second. Axis 0 of a volume is the layer; axes 1 and 2 fold its neurons into a
sheet, in which neighbourhood means nothing. Do not smooth.

Files
- *_bold.nii: activations, (layer, row, column, token), float32; *_bold.json: model, site, geometry, versions.
- *_events.tsv: one line a token; task-*_events.json explains the columns.
- *layers_dseg.nii.gz, *heads_dseg.nii.gz: which layer (attention head) a voxel belongs to.
- *_components.nii.gz, *_mixing.tsv, *_metrics.tsv, *_effects.tsv, *_grid.tsv: networks, their time courses, lesions,
  pruning. BIDS has no suffix for these yet, so .bidsignore lists them; study.json, report.html and models/ likewise.
"""


@dataclass(frozen=True)
class Study:
    """A study folder and the names in it.

    Parameters
    ----------
    root : path-like
        The folder.
    subject, task : str
        BIDS labels of the model and the corpus.
    session : str, optional
        BIDS label of the checkpoint.
    info : dict
        What ``study.json`` holds: ``model``, ``corpus``, ``recording``.

    Examples
    --------
    >>> Study("study", "gpt2", "demo").path("events", run=2).as_posix()
    'study/sub-gpt2/func/sub-gpt2_task-demo_run-02_events.tsv'
    """

    root: Path
    subject: str
    task: str
    session: str = None
    info: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "root", Path(self.root))

    # -- making and opening ---------------------------------------------------------------------------------------
    @classmethod
    def create(cls, root, model_info, corpus, *, recording=None, session=None):
        """Begin a study in a folder, or go on with the one that is there if it is the same.

        Parameters
        ----------
        root : path-like
            Made if it is missing.
        model_info : dict
            From :func:`llmbrain.describe_model`.
        corpus : str or dict
            Name of the corpus, or ``name``, ``hash`` and whatever else describes it.
        recording : dict, optional
            The choices that decide which token lies where; a study has one set of them.
        session : str, optional
            Label of the checkpoint; the model's revision, shortened, if it is known.

        Raises
        ------
        DatasetError
            If the folder holds another study or another dataset. Nothing is written then.
        """
        study = cls.plan(root, model_info, corpus, recording=recording, session=session)
        study._write_frame()
        return study

    @classmethod
    def plan(cls, root, model_info, corpus, *, recording=None, session=None):
        """The study that :meth:`create` would make, with all its checks, without writing anything."""
        corpus = {"name": corpus} if isinstance(corpus, str) else dict(corpus)
        session = session or (model_info.get("revision") or "")[:12] or None
        info = {
            "llmbrain": __version__,
            "model": dict(model_info),
            "corpus": corpus,
            "recording": recording or {},
        }
        info["labels"] = {
            "subject": bids_label(model_info.get("label") or model_info["id"]),
            "session": bids_label(session) if session else None,
            "task": bids_label(corpus["name"]),
        }
        study = cls._from_info(root, info)
        study._refuse_another()
        return study

    @classmethod
    def open(cls, root):
        """Open the study in a folder.

        Raises
        ------
        DatasetError
            If there is none.
        """
        path = Path(root) / file_name("study_json", "", "")
        if not path.is_file():
            raise DatasetError(f"{root} holds no study ({path.name} is missing). Make one with record(..., out=...).")
        try:
            return cls._from_info(root, read_json(path))
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path} cannot be read ({error}). Restore it, or record into a new folder.") from error

    @classmethod
    def _from_info(cls, root, info):
        labels = info["labels"]
        return cls(Path(root), labels["subject"], labels["task"], labels["session"], info)

    def _refuse_another(self):
        """Raise :class:`DatasetError` if the folder holds another study than this one, or another dataset."""
        path = self.path("study_json")
        if not path.is_file():
            if self.path("description").is_file() or (self.root.is_dir() and any(self.root.glob("sub-*"))):
                raise DatasetError(f"{self.root} holds a dataset that llmbrain did not write. Choose another folder.")
            if self.root.exists() and not self.root.is_dir():
                raise DatasetError(f"{self.root} is a file. Choose a folder.")
            return
        there = Study.open(self.root).info
        for part, keys in _IDENTITY.items():
            mine, theirs = self.info[part], there.get(part, {})
            key = next((key for key in keys if mine.get(key) and theirs.get(key)), keys[-1])
            if mine.get(key) != theirs.get(key):
                raise DatasetError(
                    f"{self.root} holds a study of another {part} ({_who(theirs)}); this one is {_who(mine)}. "
                    "Choose another folder, or remove that one."
                )
        differ = [
            f"{key}={there['recording'].get(key)!r} there, {value!r} now"
            for key, value in self.info["recording"].items()
            if there["recording"].get(key, False if value is False else None) != value
        ]
        if differ and there["recording"]:
            raise DatasetError(
                f"{self.root} was recorded with other settings ({'; '.join(differ)}). "
                "Use the same settings to go on with it, or choose another folder."
            )

    # -- names ----------------------------------------------------------------------------------------------------
    def path(self, kind, **entities):
        """Path of a file of this study; see :data:`llmbrain.dataset.FILES` for the kinds and their entities."""
        return self.root / file_name(kind, self.subject, self.task, self.session, **entities)

    def sites(self):
        """Recorded sites that have at least one finished run, e.g. ``["mlp"]``."""
        return sorted({read_sidecar(path)["Site"] for path in self._sidecars("*")})

    def recording(self, site=None):
        """The finished runs of one site, checked; see :func:`llmbrain.open_recording`."""
        from .runs import open_recording

        return open_recording(self, site)

    def run_paths(self, site="mlp"):
        """Paths of the finished runs of a site, in order: those whose sidecar exists."""
        return [p.with_suffix(".nii") for p in self._sidecars(bids_label(site))]

    def _sidecars(self, label):
        pattern = self.path("bold_json", run=0, site="SITE").name.replace("run-00", "run-*").replace("SITE", label)
        return sorted(self.path("bold_json", run=0).parent.glob(pattern), key=lambda p: (len(p.name), p.name))

    # -- writing --------------------------------------------------------------------------------------------------
    def _write_frame(self):
        """Write what describes the dataset as a whole. Every file is written once and the same by every process."""
        import pandas as pd

        model, corpus = self.info["model"], self.info["corpus"]
        self._once("readme", write_text, README.format(model=model["id"], corpus=corpus["name"]))
        self._once("bidsignore", write_text, "\n".join(BIDSIGNORE) + "\n")
        self._once("description", write_json, _description(self.info))
        row = {"participant_id": f"sub-{self.subject}", **{k: v for k, v in model.items() if k != "label"}}
        self._once("participants", write_tsv, pd.DataFrame([row]))
        self._once("participants_json", write_json, PARTICIPANT_COLUMNS)
        path = self.path("study_json")
        if not path.exists() or (self.info["recording"] and not read_json(path)["recording"]):
            write_json(path, self.info)

    def _once(self, kind, write, content):
        if not self.path(kind).exists():
            write(self.path(kind), content)

    def write_atlases(self, geometry):
        """Write which layer, and where there are any which attention head, each voxel belongs to."""
        import pandas as pd

        site = geometry.site
        names = [f"layer{i:02d}" for i in geometry.layers]
        index = np.arange(1, geometry.n_layers + 1)
        layers = pd.DataFrame({"index": index, "name": names, "layer": geometry.layers, "n_neurons": geometry.sizes})
        self._write_atlas("layers", site, geometry.layers_img, layers)
        if geometry.n_heads is None:
            return
        rows = [(f"layer{i:02d}head{h:02d}", i, h) for i, n in zip(geometry.layers, geometry.n_heads) for h in range(n)]
        heads = pd.DataFrame(rows, columns=["name", "layer", "head"])
        heads.insert(0, "index", np.arange(1, len(rows) + 1))
        self._write_atlas("heads", site, geometry.heads_img, heads)

    def _write_atlas(self, what, site, img, table):
        if self.path(f"{what}_tsv", site=site).exists():
            return
        save_img(self.path(f"{what}_dseg", site=site), img)
        write_json(self.path(f"{what}_json", site=site), _atlas_json(what, site))
        write_tsv(self.path(f"{what}_tsv", site=site), table)


PARTICIPANT_COLUMNS = {
    "participant_id": {"Description": "A subject is a model."},
    "id": {"Description": "Name of the model, as it was loaded."},
    "revision": {"Description": "Commit of the model's repository."},
    "architecture": {"Description": "Class of the model in transformers."},
    "n_layers": {"Description": "Number of decoder blocks."},
    "hidden_size": {"Description": "Width of the residual stream."},
    "n_parameters": {"Description": "Number of parameters, tied ones counted once."},
    "dtype": {"Description": "Type of the weights while recording."},
    "weights_hash": {"Description": "Hash of the weights, see llmbrain.models.identity.weights_hash."},
}

ATLAS_COLUMNS = {
    "index": {"Description": "Label of the voxels.", "Format": "integer"},
    "name": {"Description": "Name of the region."},
    "layer": {"Description": "Number of the layer in the model, from 0."},
    "n_neurons": {"Description": "Number of recorded neurons of the layer."},
    "head": {"Description": "Number of the attention head in its layer, from 0."},
}


def _atlas_json(what, site):
    return {
        "Description": f"The {what} of the model as labels of the voxels of the site {site}.",
        "SpatialReference": "orig",
        "Manual": False,
        "Site": site,
        **ATLAS_COLUMNS,
    }


def _description(info):
    model = info["model"]
    return {
        "Name": f"Activations of {model['id']} on {info['corpus']['name']}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": "n/a",
        "GeneratedBy": [{"Name": "llmbrain", "Version": __version__, "Description": "Recording of a language model"}],
        "SourceDatasets": [
            {
                "Description": f"model {model['id']}",
                "Version": str(model.get("revision") or model["weights_hash"]),
            },
            {
                "Description": f"corpus {info['corpus']['name']}",
                "Version": str(info["corpus"].get("hash", "n/a")),
            },
        ],
    }


def _who(part):
    key = part.get("weights_hash") or part.get("hash")
    return f"{part.get('id') or part.get('name')!r}" + (f", hash {key}" if key else "")
