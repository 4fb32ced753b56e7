"""A study: a model, a corpus, and the folder that holds everything made from them."""

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import __version__
from ..exceptions import DatasetError, LLMBrainWarning
from ..files import read_tsv, save_img, write_json, write_text, write_tsv
from .checks import check_run, read_object, read_sidecar
from .layout import BIDSIGNORE, FILES, Found, bids_label, file_name, file_pattern, is_label
from .runs import Recording, Run

__all__ = ["Study", "as_study", "check_study_folder", "locate", "open_recording", "write_result"]

BIDS_VERSION = "1.10.0"
DESCRIPTIONS = {  # of desc- labels, by the first part of the kind of file; other kinds belong to networks
    "lesion": "Lesion study {desc}: effects of networks and their controls.",
    "dose": "Lesion effects over the dose {desc}.",
    "prune": "Comparison of pruning recipes.",
    "statmap": "Localizer {desc}: a contrast of two conditions.",
    "localizer": "Localizer {desc}: a contrast of two conditions.",
}
_IDENTITY = {"model": ("weights_hash", "id"), "corpus": ("hash", "name")}  # the first that both know decides

README = """\
Recordings of a language model in the layout of a BIDS derivative, written by llmbrain.

Vocabulary: a subject is a model ({model}), a session is a checkpoint of it, a task is a corpus ({corpus}), a run is a
block of documents. A volume of a run is the state of all recorded neurons at one token, a voxel is one neuron, and the
repetition time of 1 is one token, not a second. Axis 0 of a volume is the layer; axes 1 and 2 fold its neurons into a
sheet. Neighbouring voxels of a sheet have nothing in common, so do not smooth.

Files
- *_bold.nii: activations, (layer, row, column, token), float32 or int16; *_bold.json: model, site, geometry, versions.
- *_events.tsv: one line per token; task-*_events.json explains the columns.
- *layers_dseg.nii.gz, *heads_dseg.nii.gz: the layer (attention head) that each voxel belongs to.
- *_components.nii.gz, *_mixing.tsv, *_metrics.tsv, *_effects.tsv, *_grid.tsv: networks, their time courses, lesions,
  pruning. BIDS has no suffix for these yet, so .bidsignore lists them, as well as study.json and report.html.
- descriptions.tsv: the meaning of each desc- label.
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
        """Start a study in a folder, or continue the study in it if it is the same one.

        Parameters
        ----------
        root : path-like
            The folder; created if it is missing.
        model_info : dict
            From :func:`llmbrain.describe_model`.
        corpus : str or dict
            Name of the corpus, or a dict with ``name``, ``hash`` and any further description.
        recording : dict, optional
            The settings that decide which token is recorded where; a study has one set of them.
        session : str, optional
            Label of the checkpoint; by default the first 12 characters of the model's revision, if it is known.

        Raises
        ------
        DatasetError
            If the folder holds another study or other files. Nothing is written then.
        """
        study = cls.plan(root, model_info, corpus, recording=recording, session=session)
        study._write_frame()
        return study

    @classmethod
    def plan(cls, root, model_info, corpus, *, recording=None, session=None):
        """Return the study that :meth:`create` would make, after the same checks, without writing anything."""
        corpus = {"name": corpus} if isinstance(corpus, str) else dict(corpus)
        session = session or (model_info.get("revision") or "")[:12] or None
        info = {"llmbrain": __version__, "model": dict(model_info), "corpus": corpus, "recording": recording or {}}
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
            If there is none, or its ``study.json`` is damaged.
        """
        path = Path(root) / FILES["study_json"]
        if not path.is_file():
            raise DatasetError(f"{root} holds no study ({path.name} is missing). Make one with record(..., out=...).")
        info = read_object(path)
        try:
            return cls._from_info(root, info)
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path} cannot be read ({error}). Restore it, or record into a new folder.") from error

    @classmethod
    def _from_info(cls, root, info):
        for part in ("labels", "model", "corpus", "recording"):
            if not isinstance(info[part], dict):
                raise TypeError(f"{part!r} is not an object")
        labels = info["labels"]
        for name in ("subject", "task", "session"):
            if not is_label(labels[name]) and not (name == "session" and labels[name] is None):
                raise ValueError(f"the label {name}={labels[name]!r} must consist of letters and digits")
        return cls(Path(root), labels["subject"], labels["task"], labels["session"], info)

    def _refuse_another(self):
        """Raise :class:`DatasetError` if the folder holds another study or other files."""
        check_study_folder(self.root)
        if not self.path("study_json").is_file():
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
                "Use the same settings to continue it, or choose another folder."
            )

    # -- files ----------------------------------------------------------------------------------------------------
    def path(self, kind, **entities):
        """Path of a file of this study.

        Parameters
        ----------
        kind : str
            A key of :data:`llmbrain.dataset.FILES`.
        **entities
            The parts of its name: ``run``, ``site``, ``desc``. ``site`` and ``desc`` have defaults.

        Returns
        -------
        pathlib.Path
        """
        return self.root / file_name(kind, self.subject, self.task, self.session, **entities)

    def find(self, kind, **entities):
        """Find all files of a kind that exist.

        Parameters
        ----------
        kind, **entities
            See :meth:`path`; entities that are not given may have any value.

        Returns
        -------
        list of Found
            ``path`` and ``entities`` (a dict) of each file, sorted; runs by their number.

        Examples
        --------
        >>> Study("nowhere", "gpt2", "demo").find("bold", site="mlp")
        []
        """
        folder, pattern = file_pattern(kind, self.subject, self.task, self.session, **entities)
        folder, found = self.root / folder, []
        for path in folder.iterdir() if folder.is_dir() else ():
            match = re.fullmatch(pattern, path.name)
            if match:
                found.append(Found(path, {k: int(v) if k == "run" else v for k, v in match.groupdict().items()}))
        return sorted(found, key=lambda one: (one.entities.get("run", 0), one.path.name))

    def read(self, kind, default=None, *, dtype=None, **entities):
        """Read a table or a description.

        Parameters
        ----------
        kind, **entities
            See :meth:`path`; the name must end in ``.tsv`` or ``.json``.
        default : object
            What to return if the file does not exist.
        dtype : dict, optional
            Types of columns, for tables.

        Returns
        -------
        pandas.DataFrame or dict
        """
        path = self.path(kind, **entities)
        if not path.is_file():
            return default
        return read_object(path) if path.suffix == ".json" else read_tsv(path, dtype=dtype)

    def write(self, kind, content, **entities):
        """Write a file of this study atomically; the end of its name decides the format.

        Parameters
        ----------
        kind, **entities
            See :meth:`path`.
        content : pandas.DataFrame, image, str, or object that JSON can hold
            For ``.tsv``, ``.nii.gz``, text files and ``.json``.

        Returns
        -------
        pathlib.Path
        """
        path = self.path(kind, **entities)
        if "{desc}" in FILES[kind]:
            desc = path.name.split("_desc-")[1].split("_")[0]
            text = DESCRIPTIONS.get(kind.split("_")[0], "Networks of the analysis {desc}.")
            self.describe_label(desc, text.format(desc=desc))
        if path.suffix == ".gz":
            return save_img(path, content)
        return write_text(path, content) if isinstance(content, str) else _write(path, content)

    def all_files(self):
        """All files of the folder, sorted, without unfinished ones."""
        return sorted(p for p in self.root.rglob("*") if p.is_file() and ".part." not in p.name)

    def sites(self):
        """Recorded sites that have at least one finished run, e.g. ``["mlp"]``."""
        return sorted({read_sidecar(found.path)["Site"] for found in self.find("bold_json")})

    def recording(self, site=None):
        """The finished runs of one site, checked; see :func:`llmbrain.open_recording`."""
        return open_recording(self, site)

    def run_paths(self, site="mlp"):
        """Paths of the finished runs of a site, in order: those whose sidecar exists."""
        return [found.path.with_suffix(".nii") for found in self.find("bold_json", site=site)]

    # -- writing --------------------------------------------------------------------------------------------------
    def _write_frame(self):
        """Write what describes the dataset as a whole. All processes would write the same, so each file once."""
        import pandas as pd

        # study.json is written first: by it check_study_folder recognises the folder, if the process is killed here.
        path = self.path("study_json")
        if not path.exists() or (self.info["recording"] and not read_object(path)["recording"]):
            self.write("study_json", self.info)
        model, corpus = self.info["model"], self.info["corpus"]
        row = {"participant_id": f"sub-{self.subject}", **{k: v for k, v in model.items() if k != "label"}}
        frame = {
            "readme": README.format(model=model["id"], corpus=corpus["name"]),
            "bidsignore": "\n".join(BIDSIGNORE) + "\n",
            "description": _description(self.info),
            "participants": pd.DataFrame([row]),
            "participants_json": PARTICIPANT_COLUMNS,
        }
        for kind, content in frame.items():
            if not self.path(kind).exists():
                self.write(kind, content)

    def describe_label(self, label, text):
        """Write the meaning of a ``desc-`` label into ``descriptions.tsv``, unless the label is described already."""
        import pandas as pd

        columns = ["desc_id", "description"]
        known = self.read("descriptions", pd.DataFrame(columns=columns), dtype=str)
        if f"desc-{label}" not in set(known["desc_id"]):
            rows = [*known[columns].itertuples(index=False), (f"desc-{label}", text)]
            self.write("descriptions", pd.DataFrame(sorted(rows), columns=columns))

    def write_atlases(self, geometry):
        """Write the layer of each voxel as a label image and, where the site has heads, the attention head."""
        import pandas as pd

        site = geometry.site
        self.describe_label(bids_label(site), f"Activations of the site {site}.")
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
        self.describe_label(bids_label(site) + what, f"The {what} of the site {site}.")
        if self.path(f"{what}_tsv", site=site).exists():
            return
        self.write(f"{what}_dseg", img, site=site)
        self.write(f"{what}_json", _atlas_json(what, site), site=site)
        self.write(f"{what}_tsv", table, site=site)  # last: its presence says that the atlas is complete


PARTICIPANT_COLUMNS = {
    "participant_id": {"Description": "A subject is a model."},
    "id": {"Description": "Name of the model, as it was loaded."},
    "revision": {"Description": "Commit of the model's repository."},
    "architecture": {"Description": "Class of the model in transformers."},
    "n_layers": {"Description": "Number of decoder blocks."},
    "hidden_size": {"Description": "Width of the residual stream."},
    "n_parameters": {"Description": "Number of parameters, tied ones counted once."},
    "dtype": {"Description": "Type of the weights while recording."},
    "weights_hash": {"Description": "Hash of the weights; see llmbrain.models.identity.weights_hash."},
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


def check_study_folder(root):
    """Refuse a folder that a study cannot be written to: one that holds files and no study. Hidden files may stay.

    Parameters
    ----------
    root : path-like
        It may be missing.

    Raises
    ------
    DatasetError
    """
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise DatasetError(f"{root} is a file. Choose a folder.")
    if not root.is_dir() or (root / FILES["study_json"]).is_file():
        return
    foreign = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    if foreign:
        raise DatasetError(
            f"{root} holds {foreign[0]}, which llmbrain did not write, and no study. Choose a new or an empty folder."
        )


def as_study(study):
    """Return a study as it is, and open a folder.

    Parameters
    ----------
    study : Study or path-like

    Returns
    -------
    Study
    """
    return study if isinstance(study, Study) else Study.open(study)


def locate(folder, kind, desc=None):
    """Path of a result in a study, or in a plain folder, where only the end of its name is used.

    Parameters
    ----------
    folder : Study or path-like
    kind : str
        A key of :data:`llmbrain.dataset.FILES` whose name holds ``desc``.
    desc : str, optional
        Distinguishes several results of a kind.

    Returns
    -------
    pathlib.Path

    Examples
    --------
    >>> locate("folder", "lesion_effects", "half").as_posix()
    'folder/half_effects.tsv'
    """
    if isinstance(folder, Study):
        return folder.path(kind, desc=desc)
    end = FILES[kind].rpartition("_desc-{desc}_")[2]
    return Path(folder) / (f"{desc}_{end}" if desc else end)


def write_result(folder, kind, content, desc=None):
    """Write a table or a description to :func:`locate`; returns its path."""
    if isinstance(folder, Study):
        return folder.write(kind, content, desc=desc)
    return _write(locate(folder, kind, desc), content)


def _write(path, content):
    return write_tsv(path, content) if path.suffix == ".tsv" else write_json(path, content)


def open_recording(folder, site=None):
    """Open the finished runs of a study and check every file.

    Parameters
    ----------
    folder : path-like or Study
    site : str, optional
        Name of the site; needed if several were recorded.

    Returns
    -------
    Recording

    Raises
    ------
    DatasetError
        If there is no study or no finished run, if several sites were recorded and ``site`` is not given, or if a file
        is truncated, foreign, of another model, or contradicts its sidecar; the message names the file.
    """
    study = as_study(folder)
    sites = study.sites()
    if not sites:
        raise DatasetError(f"{study.root} holds no finished run. Resume it with record(..., out={str(study.root)!r}).")
    if site is None and len(sites) > 1:
        raise DatasetError(f"{study.root} holds the sites {', '.join(sites)}; choose one with site= (--site).")
    if site is not None and site not in sites:
        raise DatasetError(f"The site {site!r} is not recorded in {study.root}. Choose from {', '.join(sites)}.")
    paths = study.run_paths(site or sites[0])
    for path in paths:
        check_run(path, study.info["model"].get("weights_hash"))
    runs = [Run(path, check=False) for path in paths]
    gaps = sorted(set(range(1, runs[-1].index)) - {run.index for run in runs})
    if gaps:
        warnings.warn(
            f"{study.root} lacks the runs {', '.join(map(str, gaps))} of the site {runs[0].geometry.site!r}: they are "
            "not recorded yet, or were removed.",
            LLMBrainWarning,
            stacklevel=2,
        )
    return Recording(study, runs)
