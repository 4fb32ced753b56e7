"""A study: a model, a corpus, and the folder that holds everything made from them."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from .. import __version__
from ..exceptions import DatasetError, ParameterError
from ..files import as_path, with_hashes, write_any
from .checks import read_object, read_own, read_sidecar, read_table
from .checksums import run_hash
from .folder import check_study_folder, holds_study, model_files
from .frame import SESSION_COLUMNS, frame_of, participants_of, sessions_of
from .identity import check_same, check_settings
from .layout import FILES, NUMBERS, Found, bare_label, bids_label, file_name, file_pattern, is_label
from .runs import Recording, open_runs


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
        object.__setattr__(self, "root", as_path(self.root))

    # -- making and opening ---------------------------------------------------------------------------------------
    @classmethod
    def create(cls, root, model_info, corpus, *, recording=None, session=None, subject=None):
        """Start a study in a folder, continue it if it is the same one, or add another model to the dataset.

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
        subject : str, optional
            Label of the model; made from its name by default.

        Raises
        ------
        DatasetError
            If the folder holds another corpus, other weights under the same labels, or other files. Nothing is written
            then.
        """
        study = cls.plan(root, model_info, corpus, recording=recording, session=session, subject=subject)
        study._write_frame()
        return study

    @classmethod
    def plan(cls, root, model_info, corpus, *, recording=None, session=None, subject=None):
        """Return the study that :meth:`create` would make, after the same checks, without writing anything."""
        corpus = {"name": corpus} if isinstance(corpus, str) else dict(corpus)
        for name, label in (("subject", subject), ("session", session)):
            if label is not None and not re.search("[0-9A-Za-z]", str(label)):
                raise ParameterError(f"{name}={label!r}: a label needs letters (A to Z) or digits.")
        session = session or (model_info.get("revision") or "")[:12] or None
        info = {"llmbrain": __version__, "model": dict(model_info), "corpus": corpus, "recording": recording or {}}
        info["labels"] = {
            "subject": bids_label(subject or model_info.get("label") or model_info["id"]),
            "session": bids_label(session) if session else None,
            "task": bids_label(corpus["name"]),
        }
        study = cls._from_info(root, info)
        study._refuse_another()
        return study

    @classmethod
    def open(cls, root, subject=None, session=None):
        """Open the study in a folder.

        Parameters
        ----------
        root : path-like
        subject, session : str, optional
            Labels of the model and its checkpoint, with or without ``sub-`` and ``ses-``; needed if the dataset holds
            several.

        Raises
        ------
        DatasetError
            If there is none, several match, or ``study.json`` is damaged.
        """
        subject, session = bare_label(subject, "sub-"), bare_label(session, "ses-")
        found = find_studies(root)
        chosen = [s for s in found if subject in (None, s.subject) and session in (None, s.session)]
        if len(chosen) == 1:
            return chosen[0]
        names = ", ".join(study.name for study in found)
        if not chosen:
            wanted = " ".join(filter(None, [subject and f"sub-{subject}", session and f"ses-{session}"]))
            raise DatasetError(f"{root} holds no {wanted}. Choose from {names}.")
        raise DatasetError(
            f"{root} holds several models: {names}. Choose one with subject= (--subject) and session= (--session)."
        )

    @property
    def name(self):
        """Labels of the model and its checkpoint, such as ``sub-gpt2`` or ``sub-gpt2_ses-tuned``."""
        return f"sub-{self.subject}" + (f"_ses-{self.session}" if self.session else "")

    @classmethod
    def _from_file(cls, path, root):
        info = read_own(path, "Restore it, or record into a new folder.")
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
        """Raise :class:`DatasetError` if the folder has another corpus, other weights of this name, or other files."""
        check_study_folder(self.root)
        for other in find_studies(self.root) if holds_study(self.root) else ():
            if other.subject == self.subject and (other.session is None) != (self.session is None):
                raise DatasetError(
                    f"{self.root} holds {other.name}; a model has either sessions or none, so {self.name} cannot be "
                    "added. Use the same kind of label, or another label with subject= (--subject)."
                )
            same = other == self
            for part in ("model", "corpus") if same else ("corpus",):
                check_same(part, self.info, other.info, self.root)
            if same:
                check_settings(self.info["recording"], other.info["recording"], self.root)

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
                found.append(Found(path, {k: int(v) if k in NUMBERS else v for k, v in match.groupdict().items()}))
        return sorted(found, key=lambda one: (one.entities.get("run", one.entities.get("network", 0)), one.path.name))

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

        Raises
        ------
        DatasetError
            If the file is damaged.
        """
        path = self.path(kind, **entities)
        if not path.is_file():
            return default
        return read_object(path) if path.suffix == ".json" else read_table(path, dtype)

    def write(self, kind, content, **entities):
        """Write a single file of this study atomically; the end of its name decides the format.

        What killed processes left of this file is removed.

        Files of a result are written by :func:`llmbrain.dataset.write_result`.

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
        return write_any(self.path(kind, **entities), content)

    def all_files(self):
        """All files of the folder, sorted, without unfinished ones."""
        files = (p for p in self.root.rglob("*") if p.is_file() and ".part." not in p.name)
        return sorted(p for p in files if p.suffix != ".lock")

    def sites(self):
        """Recorded sites that have at least one finished run, e.g. ``["mlp"]``."""
        return sorted({read_sidecar(found.path)["Site"] for found in self.find("bold_json")})

    def recording(self, site=None):
        """The finished runs of one site, checked; see :func:`llmbrain.open_recording`."""
        return open_recording(self, site)

    def run_paths(self, site="mlp"):
        """Paths of the finished runs of a site, in order: those whose sidecar exists."""
        return [found.path.with_suffix(".nii") for found in self.find("bold_json", site=site)]

    def run_hashes(self, site):
        """Hash of each finished run of a site with its events, by its number as text; unreadable runs are left out."""
        found = {}
        for one in self.find("bold_json", site=site):
            try:
                found[str(one.entities["run"])] = run_hash(read_object(one.path))
            except (DatasetError, OSError, KeyError, TypeError):
                continue
        return found

    # -- writing --------------------------------------------------------------------------------------------------
    def _write_frame(self):
        """Write what describes the dataset as a whole. All processes would write the same, so each file once."""
        # study.json is written first: by it check_study_folder recognises the folder, if the process is killed here.
        for kind in ("study_json", "subject_json"):
            path = self.path(kind)
            known = self._from_file(path, self.root).info if path.exists() else None
            if known is None or (
                self.info["recording"] and known["labels"] == self.info["labels"] and not known["recording"]
            ):
                self.write(kind, with_hashes(self.info))
        for kind, content in frame_of(self.info).items():
            if not self.path(kind).exists():
                self.write(kind, content)
        self._write_models()

    def _write_models(self):
        """Write the tables of models and checkpoints. Each is made from all models that are there."""
        infos = [study.info for study in find_studies(self.root)]
        mine = [info for info in infos if info["labels"]["subject"] == self.subject and info["labels"]["session"]]
        tables = {"participants": participants_of(infos)}
        if mine:
            tables["sessions"] = sessions_of(mine)
            if not self.path("sessions_json").exists():
                self.write("sessions_json", SESSION_COLUMNS)
        for kind, table in tables.items():
            known, key = self.read(kind, dtype=str), table.columns[0]
            if known is None or key not in known or list(known[key]) != list(table[key]):
                self.write(kind, table)

    def describe_label(self, label, text):
        """Write the meaning of a ``desc-`` label into ``descriptions.tsv``, unless the label is described already."""
        import pandas as pd

        columns = ["desc_id", "description"]
        known = self.read("descriptions", pd.DataFrame(columns=columns), dtype=str)
        if f"desc-{label}" not in set(known["desc_id"]):
            rows = [*known[columns].itertuples(index=False), (f"desc-{label}", text)]
            self.write("descriptions", pd.DataFrame(sorted(rows), columns=columns))


def find_studies(root):
    """Find the models and checkpoints of a dataset.

    Every model's folder describes itself, so a dataset may be moved, lack models, or be merged with another by copying
    ``sub-`` folders.

    Parameters
    ----------
    root : path-like

    Returns
    -------
    list of Study
        At least one, sorted by their labels.

    Raises
    ------
    DatasetError
        If there is none, a description is damaged, or a folder is named after another model than it describes.
    """
    root = as_path(root)
    path, files = root / FILES["study_json"], model_files(root)
    if not path.is_file() and not files:
        raise DatasetError(f"{root} holds no study ({path.name} is missing). Make one with record(..., out=...).")
    if path.is_file() and not files:
        return [Study._from_file(path, root)]
    found = [Study._from_file(file, root) for file in files]
    for study, file in zip(found, files):
        if study.path("subject_json") != file:
            raise DatasetError(
                f"{file} describes {study.name}, but lies in the folder of another model. Move it back, or rename it."
            )
    return found


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
        raise DatasetError(
            f"{site!r} is not recorded in {study.root}. Choose {', '.join(sites)}, or add it: record the same text "
            f"into the study with the same settings and site={site!r} (--site)."
        )
    return Recording(study, open_runs(study.run_paths(site or sites[0]), study.info["model"].get("weights_hash")))
