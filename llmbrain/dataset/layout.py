"""The names of all files of a study, in one table.

A study is a BIDS derivative: ``sub`` is the model, ``ses`` its checkpoint, ``task`` the corpus, ``run`` a block of
documents, ``desc`` the recorded site or the analysis.
"""

import re
from pathlib import Path
from typing import NamedTuple

from ..exceptions import ParameterError

# {subject} is the model's folder, {model} that of its checkpoint and {func} that of its functional files; {stem} names
# the model, the checkpoint and the corpus. Every other field is an entity that Study.path takes.
_BIDS = {
    "description": "dataset_description.json",
    "readme": "README",
    "bidsignore": ".bidsignore",
    "descriptions": "descriptions.tsv",
    "descriptions_json": "descriptions.json",
    "participants": "participants.tsv",
    "participants_json": "participants.json",
    "sessions": "{subject}/{subject}_sessions.tsv",
    "sessions_json": "sessions.json",
    "bold": "{func}/{stem}_run-{run}_desc-{site}_bold.nii",
    "bold_json": "{func}/{stem}_run-{run}_desc-{site}_bold.json",
    "events": "{func}/{stem}_run-{run}_events.tsv",
    "events_json": "task-{task}_events.json",
    "neurons_mask": "{func}/{stem}_label-neurons_desc-{site}_mask.nii.gz",
    "neurons_json": "{func}/{stem}_label-neurons_desc-{site}_mask.json",
    "networks_dseg": "{func}/{stem}_seg-{desc}_dseg.nii.gz",
    "networks_tsv": "{func}/{stem}_seg-{desc}_dseg.tsv",
    "networks_json": "{func}/{stem}_seg-{desc}_dseg.json",
    "network_mask": "{func}/{stem}_label-network{network}_desc-{desc}_mask.nii.gz",
    "network_mask_json": "{func}/{stem}_label-network{network}_desc-{desc}_mask.json",
    "layers_dseg": "{func}/{stem}_desc-{site}layers_dseg.nii.gz",
    "layers_tsv": "{func}/{stem}_desc-{site}layers_dseg.tsv",
    "layers_json": "{func}/{stem}_desc-{site}layers_dseg.json",
    "heads_dseg": "{func}/{stem}_desc-{site}heads_dseg.nii.gz",
    "heads_tsv": "{func}/{stem}_desc-{site}heads_dseg.tsv",
    "heads_json": "{func}/{stem}_desc-{site}heads_dseg.json",
    "localizer_mask": "{func}/{stem}_desc-{desc}_mask.nii.gz",
    "localizer_mask_json": "{func}/{stem}_desc-{desc}_mask.json",
}
_NOT_BIDS = {  # BIDS has no name for these yet
    "study_json": "study.json",
    "subject_json": "{model}/study.json",
    "report": "report.html",
    "subject_report": "{stem}_report.html",
    "scale": "{func}/{stem}_desc-{site}_scale.nii.gz",
    "components": "{func}/{stem}_desc-{desc}_components.nii.gz",
    "components_json": "{func}/{stem}_desc-{desc}_components.json",
    "z_components": "{func}/{stem}_desc-{desc}_stat-z_components.nii.gz",
    "z_components_json": "{func}/{stem}_desc-{desc}_stat-z_components.json",
    "metrics": "{func}/{stem}_desc-{desc}_metrics.tsv",
    "mixing": "{func}/{stem}_run-{run}_desc-{desc}_mixing.tsv",
    "stability": "{func}/{stem}_desc-{desc}_stability.tsv",
    "labels": "{func}/{stem}_desc-{desc}_labels.tsv",
    "labels_json": "{func}/{stem}_desc-{desc}_labels.json",
    "statmap": "{func}/{stem}_desc-{desc}_stat-z_statmap.nii.gz",
    "statmap_json": "{func}/{stem}_desc-{desc}_stat-z_statmap.json",
    "order": "{func}/{stem}_desc-{desc}_order.tsv",
    "order_json": "{func}/{stem}_desc-{desc}_order.json",
    "profile": "{func}/{stem}_desc-{desc}_profile.tsv",
    "connectivity": "{func}/{stem}_desc-{desc}_connectivity.tsv",
    "engagement": "{func}/{stem}_desc-{desc}_engagement.tsv",
    "correlations": "{func}/{stem}_desc-{desc}_correlations.tsv",
    "tokens": "{func}/{stem}_desc-{desc}_tokens.tsv",
    "contexts": "{func}/{stem}_desc-{desc}_contexts.tsv",
    "topography": "{func}/{stem}_desc-{desc}_topography.nii.gz",
    "topography_json": "{func}/{stem}_desc-{desc}_topography.json",
    "lesion_effects": "{func}/{stem}_desc-{desc}_effects.tsv",
    "lesion_controls": "{func}/{stem}_desc-{desc}_controls.tsv",
    "lesion_items": "{func}/{stem}_desc-{desc}_items.tsv",
    "lesion_json": "{func}/{stem}_desc-{desc}_effects.json",
    "dose_effects": "{func}/{stem}_desc-{desc}_dose.tsv",
    "dose_controls": "{func}/{stem}_desc-{desc}_dosecontrols.tsv",
    "dose_json": "{func}/{stem}_desc-{desc}_dose.json",
    "prune_table": "{func}/{stem}_desc-{desc}_grid.tsv",
    "prune_json": "{func}/{stem}_desc-{desc}_grid.json",
    "comparison_shared": "{func}/{stem}_desc-{desc}_shared.tsv",
    "comparison_pairs": "{func}/{stem}_desc-{desc}_pairs.tsv",
    "comparison_similarity": "{func}/{stem}_desc-{desc}_similarity.tsv",
    "comparison_json": "{func}/{stem}_desc-{desc}_comparison.json",
    "lesion_unfinished": "{func}/.{stem}_lesion.part.npz",
    "lesion_shares": "{func}/.{stem}_desc-{desc}_lesion.part.npz",
    "lesion_shares_json": "{func}/.{stem}_desc-{desc}_lesion.part.json",
    "recording_shares": "{func}/.{stem}_shares.part.json",
    "lock": "{func}/.{stem}_run-{run}_events.lock",
}
FILES = {**_BIDS, **_NOT_BIDS}


class ResultKind(NamedTuple):
    """A kind of result: several files that are published together."""

    manifest: str  # kind of its JSON file, which names the others and is published last
    parts: tuple  # kinds of its other files
    what: str  # what it is called in messages
    remedy: str  # how to make it again
    option: str = ""  # by which commands choose one


# One line for each kind of result of a study. ``desc`` (of atlases: ``site``) is the name of the result.
RESULTS = {
    "networks": ResultKind(
        "components_json",
        ("components", "z_components", "z_components_json", "networks_dseg", "networks_tsv", "networks_json",
         "network_mask", "network_mask_json", "metrics", "mixing", "stability", "profile", "connectivity",
         "engagement", "correlations", "tokens", "contexts"),
        "networks", "Find them again (llmbrain networks).",
        " (--networks), or some of it: NAME:accepted or NAME:0,4-6",
    ),
    "lesions": ResultKind(
        "lesion_json", ("lesion_effects", "lesion_controls", "lesion_items"), "lesion study",
        "Run it again (llmbrain lesion).",
    ),
    "doses": ResultKind("dose_json", ("dose_effects", "dose_controls"), "dose response", "Measure and save it again."),
    "pruning": ResultKind("prune_json", ("prune_table",), "pruning table", "Make it again (llmbrain run)."),
    "comparison": ResultKind(
        "comparison_json", ("comparison_shared", "comparison_pairs", "comparison_similarity"), "comparison of models",
        "Compare them again (llmbrain compare).",
    ),
    "order": ResultKind("order_json", ("order",), "number of networks", "Choose and save it again."),
    "localizer": ResultKind(
        "statmap_json", ("statmap", "localizer_mask", "localizer_mask_json"), "localizer", "Run and save it again."
    ),
    "topography": ResultKind("topography_json", ("topography",), "display order", "Remove it; a report makes it."),
    "layers": ResultKind("layers_json", ("layers_dseg", "layers_tsv"), "atlas of layers", "Repeat llmbrain record."),
    "heads": ResultKind("heads_json", ("heads_dseg", "heads_tsv"), "atlas of heads", "Repeat llmbrain record."),
}  # fmt: skip

# Names that Rica, the viewer of tedana, looks for in a folder of its own.
TEDANA = {
    "z_components": "desc-ICA_stat-z_components.nii.gz",
    "mixing": "desc-ICA_mixing.tsv",
    "metrics": "desc-tedana_metrics.tsv",
    "mask": "desc-neurons_mask.nii.gz",
    "report": "report.txt",
}

NUMBERS = ("run", "network")  # entities that are numbers; those of networks are counted from 0
_SITE = "mlp"
_FRAME = ("subject", "model", "func", "stem", "task")  # fields that a study fills in itself


def _ignored(pattern):
    if "{stem}_" in pattern:
        return f"**/*_{pattern.rsplit('_', 1)[1]}"
    return pattern.replace("{model}", "**")


# Lines of .bidsignore: the files that tools for BIDS must skip.
BIDSIGNORE = (
    *dict.fromkeys(_ignored(pattern) for pattern in _NOT_BIDS.values() if not Path(pattern).name.startswith(".")),
    "**/.*.part.*",
    "**/.*.lock",
)


class Found(NamedTuple):
    """A file of a study, and the entities that its name holds."""

    path: Path
    entities: dict


def bids_label(text):
    """Keep the letters and digits of a text; a BIDS label may hold nothing else.

    Parameters
    ----------
    text : str

    Returns
    -------
    str

    Examples
    --------
    >>> bids_label("mlp_gate"), bids_label("HuggingFaceTB/SmolLM2-135M")
    ('mlpgate', 'HuggingFaceTBSmolLM2135M')
    """
    return re.sub(r"[^0-9A-Za-z]", "", str(text)) or "unnamed"


def bare_label(label, prefix):
    """Return a label without its prefix, such as ``sub-``; other values pass through."""
    return label.removeprefix(prefix) if isinstance(label, str) else label


def is_label(text):
    """Return whether a value is a valid BIDS label: a text of ASCII letters and digits."""
    return isinstance(text, str) and re.fullmatch(r"[0-9A-Za-z]+", text) is not None


def file_name(kind, subject, task, session=None, **entities):
    """Path of a file relative to the study; ``entities`` are the rest of its name: ``run``, ``site``, ``desc``."""
    needed = _entities(kind, entities)
    fields = {"site": _SITE, **{name: _format(name, value) for name, value in entities.items() if value is not None}}
    missing = [name for name in needed if name not in fields]
    if missing:
        example = {"run": "1", "desc": "'canica20'"}[missing[0]]
        raise ParameterError(f"The file {kind!r} needs {' and '.join(missing)}, e.g. {missing[0]}={example}.")
    return FILES[kind].format(**_frame(subject, task, session), **fields)


def file_pattern(kind, subject, task, session=None, **entities):
    """Folder of a kind of file, and a regular expression for its name; entities not given may have any value."""
    needed = _entities(kind, entities)
    fields = _frame(subject, task, session)
    for name in needed:
        known = entities.get(name)
        values = _format(name, known) if known is not None else r"\d+" if name in NUMBERS else "[0-9A-Za-z]+"
        fields[name] = f"(?P<{name}>{values})"
    folder, _, name = FILES[kind].rpartition("/")
    return folder.format(**fields), name.replace(".", r"\.").format(**fields)


def events_of(bold):
    """Path of the events that belong to a ``_bold.nii`` file."""
    return bold.with_name(bold.name.split("_desc-")[0] + "_events.tsv")


def _frame(subject, task, session):
    model = f"sub-{subject}" + (f"_ses-{session}" if session else "")
    folder = model.replace("_ses-", "/ses-")
    names = {"subject": f"sub-{subject}", "model": folder, "func": f"{folder}/func"}
    return {**names, "stem": f"{model}_task-{task}", "task": task}


def _entities(kind, given):
    """Entities that the name of a kind of file holds, in order; others are refused."""
    if kind not in FILES:
        raise ParameterError(f"Unknown kind of file {kind!r}. Choose from {', '.join(FILES)}.")
    needed = [name for name in re.findall(r"{(\w+)}", FILES[kind]) if name not in _FRAME]
    unused = set(given) - set(needed)
    if unused:
        has = f"it has {', '.join(needed)}" if needed else "it has no entities"
        raise ParameterError(f"The file {kind!r} has no {' or '.join(sorted(unused))}; {has}.")
    return needed


def _format(name, value):
    return f"{int(value):02d}" if name in NUMBERS else bids_label(value)
