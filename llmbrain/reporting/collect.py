"""Gather what a report shows, from a study folder or from single results. What is absent is named, not guessed."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ..exceptions import LLMBrainError, ParameterError
from ..files import read_json, read_tsv
from ..networks.result import THRESHOLD
from .display import BYTES, display_order, other_half
from .stations import read_stations

__all__ = ["from_object", "from_study"]

N_DRAWS = 99  # of circular shifts; names of networks are suggestions and need no finer p


@dataclass
class ReportData:
    """Everything one report may show; what is None is left out."""

    title: str
    subtitle: str = ""
    kind: str = "study"
    model: dict = field(default_factory=dict)
    corpus: dict = field(default_factory=dict)
    runs: pd.DataFrame = None
    sidecar: dict = field(default_factory=dict)
    events: pd.DataFrame = None
    geometry: object = None
    recorded: object = None
    networks: object = None
    threshold: float = THRESHOLD
    courses: np.ndarray = None
    course_events: pd.DataFrame = None
    interpretation: object = None
    engagement: pd.DataFrame = None
    carpet: tuple = None
    topography: object = None
    other_half: tuple = None
    stability: pd.DataFrame = None
    orders: list = field(default_factory=list)
    lesion: object = None
    doses: list = field(default_factory=list)
    localizers: list = field(default_factory=list)
    pruning: pd.DataFrame = None
    prune_info: dict = field(default_factory=dict)
    pruned: object = None
    files: list = field(default_factory=list)
    absent: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    root: Path = None
    output: Path = None


@dataclass
class Tables:
    """A lesion study as its files hold it."""

    table: pd.DataFrame
    controls: pd.DataFrame = None
    items: pd.DataFrame = None
    info: dict = field(default_factory=dict)


# -- a study folder -----------------------------------------------------------------------------------------------
def from_study(study, topography="auto"):
    """Read a study folder; stations that have not been run yet are listed in ``absent``.

    Parameters
    ----------
    study : Study
    topography : "auto", Topography or None
        See :func:`llmbrain.generate_report`.

    Returns
    -------
    ReportData
    """
    model, corpus = study.info.get("model", {}), study.info.get("corpus", {})
    data = ReportData(
        title=model_name(model.get("id", study.subject)), subtitle=f"on the corpus “{corpus.get('name', study.task)}”",
        model=model, corpus=corpus, root=study.root, output=study.path("report"),
    )  # fmt: skip
    _networks(study, data)
    recording = _recording(study, data)
    _lesion(study, data)
    _pruning(study, data)
    read_stations(study, data)
    if recording is not None:
        _courses(recording, data)
        _activity(recording, data)
    data.topography = display_order(data, recording, topography, study)
    if data.networks is not None:
        data.other_half = other_half(data, recording)
    data.files = _files(study)
    return data


def _recording(study, data):
    sites = study.sites()
    wanted = [*([data.networks.geometry.site] if data.networks is not None else []), "mlp", *sites]
    site = next((site for site in wanted if site in sites), None)
    if len(sites) > 1:
        others = ", ".join(name for name in sites if name != site)
        data.absent.append(f"The study also holds recordings of {others}; this report shows {site}.")
    try:
        recording = None if site is None else study.recording(site)
    except LLMBrainError as error:
        data.absent.append(f"The recording cannot be read: {error}")
        return None
    if recording is None:
        data.absent.append("No text has been recorded yet (llmbrain record).")
        return None
    _describe_recording(recording, data)
    return recording


def _describe_recording(recording, data):
    data.recorded, data.events, data.sidecar = recording.geometry, recording.events, recording[0].sidecar
    data.geometry = data.geometry or recording.geometry
    by_run = data.events.groupby("run", sort=False)
    data.runs = pd.DataFrame(
        {
            "run": [run.path.name for run in recording],
            "documents": by_run["document"].nunique().to_numpy(),
            "tokens": [run.n_tokens for run in recording],
            "size (MB)": [round(run.path.stat().st_size / 1e6, 1) for run in recording],
        }
    )


def _networks(study, data):
    pattern = study.path("components_json", desc="X").name.replace("desc-X", "desc-*")
    found = sorted(p.name.split("_desc-")[1].split("_")[0] for p in study.path("components_json").parent.glob(pattern))
    if not found:
        data.absent.append("No networks have been decomposed yet (llmbrain networks).")
        return
    from ..networks.result import NetworkSet

    desc = "canica" if "canica" in found else found[0]
    set_networks(data, NetworkSet.load(study, desc=desc))
    others = [name for name in found if name != desc]
    if others:
        data.absent.append(f"The study also holds the decompositions {', '.join(others)}; this report shows {desc}.")
    path = study.path("stability", desc=desc)
    data.stability = read_tsv(path) if path.is_file() else None


def set_networks(data, networks):
    """Take a network set into the report."""
    data.networks = networks
    data.geometry = data.geometry or networks.geometry
    data.threshold = float((networks.info or {}).get("threshold") or THRESHOLD)


def _lesion(study, data):
    if not study.path("lesion_effects").is_file():
        data.absent.append("No network has been lesioned yet (llmbrain lesion).")
        return
    from ..lesions.result import LesionResult

    data.lesion = LesionResult.load(study)
    data.warnings += data.lesion.info.get("warnings") or []


def _pruning(study, data):
    path = study.path("prune_table")
    if not path.is_file():
        data.absent.append("No pruning has been compared yet (llmbrain prune).")
        return
    data.pruning = read_tsv(path)
    data.prune_info = read_json(study.path("prune_json")) if study.path("prune_json").is_file() else {}


def _courses(recording, data):
    """Time courses of networks, beside the tokens they belong to."""
    if data.networks is None:
        return
    courses = data.networks.time_courses
    if courses is None:
        data.absent.append("The time courses of the networks are not in the study, so no words are shown.")
        return
    wanted = data.networks.info.get("runs") or [run.index for run in recording]
    runs = [run for index in wanted for run in recording if run.index == index]
    if len(courses) != len(runs) or any(len(c) != run.n_tokens for c, run in zip(courses, runs)):
        data.absent.append("The networks were found on other runs than those of this study, so no words are shown.")
        return
    data.courses = stack_courses(courses)
    frames = [run.events.assign(run=run.index) for run in runs]
    data.course_events = pd.concat(frames, ignore_index=True)
    interpret_courses(data, courses, frames)


def interpret_courses(data, courses, frames):
    """What drives each network, and in which kinds of text it works."""
    from ..networks.meaning.interpretation import interpret
    from ..networks.meaning.profiles import kind_engagement

    data.interpretation = interpret(courses, frames, n_draws=N_DRAWS)
    kinds = data.course_events
    if {"document", "kind"} <= set(kinds) and kinds["kind"].nunique() > 1:
        data.engagement = kind_engagement(courses, frames)


def stack_courses(courses):
    """Time courses of all runs, one under the other, z-scored over all tokens."""
    stacked = np.concatenate([np.asarray(c, float) for c in courses])
    return (stacked - stacked.mean(axis=0)) / np.maximum(stacked.std(axis=0), 1e-9)


def _activity(recording, data, most=420):
    """A stretch of one run for the carpet: as many tokens as fit the budget, from the middle of the recording."""
    if data.networks is not None and data.networks.geometry != recording.geometry:
        return
    run = recording[len(recording) // 2]
    n = int(np.clip(BYTES / (4 * run.geometry.n_neurons), 40, most))
    n = min(n, run.n_tokens)
    start = (run.n_tokens - n) // 2
    data.carpet = (
        run.to_array(start, start + n),
        run.events.iloc[start : start + n].reset_index(drop=True),
        f"run {run.index}",
        start,
    )


def _files(study):
    rows = []
    for path in sorted(p for p in study.root.rglob("*") if p.is_file() and ".part." not in p.name):
        rows.append({"file": path.relative_to(study.root).as_posix(), "size (MB)": round(path.stat().st_size / 1e6, 2)})
    return rows


# -- single results -----------------------------------------------------------------------------------------------
def from_object(obj, topography="auto"):
    """Gather a report of one result: a recording, networks, a lesion study, dose and response, a pruned model, a grid.

    Parameters
    ----------
    obj : object
        What to report on.
    topography : "auto", Topography or None
        See :func:`llmbrain.generate_report`.

    Returns
    -------
    ReportData

    Raises
    ------
    ParameterError
        If nothing is known to report about the object.
    """
    obj = getattr(obj, "networks_", obj)
    if hasattr(obj, "maps") and hasattr(obj, "geometry"):
        data = ReportData(title="Networks", kind="networks")
        set_networks(data, obj)
        if getattr(obj, "time_courses", None) is not None:
            data.courses = stack_courses(obj.time_courses)
        data.model = dict((obj.info or {}).get("model") or {})
        data.topography = display_order(data, None, topography)
    elif hasattr(obj, "runs") and hasattr(obj, "study"):
        data = ReportData(title="Recording", kind="recording", root=obj.root)
        data.model, data.corpus = obj.study.info.get("model", {}), obj.study.info.get("corpus", {})
        _describe_recording(obj, data)
        _activity(obj, data)
    elif hasattr(obj, "curve") and hasattr(obj, "spectrum"):
        data = ReportData(title="How many networks", kind="order")
        data.orders = [("", obj.curve, {"n_components": obj.n_components, "parallel": obj.parallel, **obj.info})]
    elif hasattr(obj, "table") and "over" in (getattr(obj, "info", None) or {}):
        data = ReportData(title="Dose and response", kind="dose", doses=[obj])
    elif hasattr(obj, "table") and hasattr(obj, "controls"):
        data = ReportData(title="Lesions", kind="lesion", lesion=obj)
    elif hasattr(obj, "summary") and hasattr(obj, "kept"):
        data = ReportData(title="Pruned model", kind="pruned", pruned=obj)
        data.model = dict(obj.summary.get("base_model") or {})
    elif isinstance(obj, pd.DataFrame) and "perplexity" in obj:
        data = ReportData(title="Pruning", kind="pruning", pruning=obj)
    elif isinstance(obj, pd.DataFrame) and {"network", "effect"} <= set(obj):
        data = ReportData(title="Lesions", kind="lesion", lesion=Tables(obj))
    else:
        raise ParameterError(
            f"No report is known for {type(obj).__name__}. Give a study folder, a Study, a recording, networks or a "
            "fitted CanICA or DictLearning, a lesion result, a dose response, an order, a pruned model, or the table "
            "of run_grid."
        )
    data.subtitle = model_name(data.model["id"]) if data.model.get("id") else ""
    return data


def model_name(name):
    """Last part of a model's name: what a reader calls it."""
    return str(name).rstrip("/").rsplit("/", 1)[-1]
