"""The names of all files of a study, in one table.

A study is a BIDS derivative: ``sub`` is the model, ``ses`` its checkpoint, ``task`` the corpus, ``run`` a block of
documents, ``desc`` the recorded site or the analysis.
"""

import re

from ..exceptions import ParameterError

__all__ = ["BIDSIGNORE", "FILES", "bids_label", "file_name"]

# {func} is the folder of the model's functional files, {stem} names model, checkpoint and corpus, {model} leaves the
# corpus out. Every other field is an entity that Study.path takes; what stands in DEFAULTS need not be given.
FILES = {
    "description": "dataset_description.json",
    "readme": "README",
    "bidsignore": ".bidsignore",
    "participants": "participants.tsv",
    "participants_json": "participants.json",
    "study_json": "study.json",
    "progress_json": "progress.json",
    "report": "report.html",
    "bold": "{func}/{stem}_run-{run}_desc-{site}_bold.nii",
    "bold_json": "{func}/{stem}_run-{run}_desc-{site}_bold.json",
    "events": "{func}/{stem}_run-{run}_events.tsv",
    "events_json": "task-{task}_events.json",
    "layers_dseg": "{func}/{stem}_desc-{site}layers_dseg.nii.gz",
    "layers_tsv": "{func}/{stem}_desc-{site}layers_dseg.tsv",
    "layers_json": "{func}/{stem}_desc-{site}layers_dseg.json",
    "heads_dseg": "{func}/{stem}_desc-{site}heads_dseg.nii.gz",
    "heads_tsv": "{func}/{stem}_desc-{site}heads_dseg.tsv",
    "heads_json": "{func}/{stem}_desc-{site}heads_dseg.json",
    "scale": "{func}/{stem}_desc-{site}_scale.nii.gz",
    "components": "{func}/{stem}_desc-{desc}_components.nii.gz",
    "components_json": "{func}/{stem}_desc-{desc}_components.json",
    "metrics": "{func}/{stem}_desc-{desc}_metrics.tsv",
    "mixing": "{func}/{stem}_run-{run}_desc-{desc}_mixing.tsv",
    "network_mask": "{func}/{stem}_desc-{desc}net{network}_mask.nii.gz",
    "stability": "{func}/{stem}_desc-{desc}_stability.tsv",
    "statmap": "{func}/{stem}_desc-{desc}_stat-z_statmap.nii.gz",
    "statmap_json": "{func}/{stem}_desc-{desc}_stat-z_statmap.json",
    "localizer_mask": "{func}/{stem}_desc-{desc}_mask.nii.gz",
    "order": "{func}/{stem}_desc-{desc}_order.tsv",
    "order_json": "{func}/{stem}_desc-{desc}_order.json",
    "profile": "{func}/{stem}_desc-{desc}_profile.tsv",
    "connectivity": "{func}/{stem}_desc-{desc}_connectivity.tsv",
    "engagement": "{func}/{stem}_desc-{desc}_engagement.tsv",
    "correlations": "{func}/{stem}_desc-{desc}_correlations.tsv",
    "tokens": "{func}/{stem}_desc-{desc}_tokens.tsv",
    "contexts": "{func}/{stem}_desc-{desc}_contexts.tsv",
    "topography": "{func}/{stem}_desc-{site}_topography.nii.gz",
    "topography_json": "{func}/{stem}_desc-{site}_topography.json",
    "lesion_effects": "{func}/{stem}_desc-{desc}_effects.tsv",
    "lesion_controls": "{func}/{stem}_desc-{desc}_controls.tsv",
    "lesion_items": "{func}/{stem}_desc-{desc}_items.tsv",
    "lesion_json": "{func}/{stem}_desc-{desc}_effects.json",
    "dose_effects": "{func}/{stem}_desc-{desc}_dose.tsv",
    "dose_controls": "{func}/{stem}_desc-{desc}_dosecontrols.tsv",
    "dose_json": "{func}/{stem}_desc-{desc}_dose.json",
    "prune_table": "{func}/{stem}_desc-{desc}_grid.tsv",
    "prune_json": "{func}/{stem}_desc-{desc}_grid.json",
    "pruned_model": "models/{stem}_desc-{desc}",
}

DEFAULTS = {"site": "mlp"}
_DESC = {"lesion": "lesion", "prune": "prune"}  # first part of the kind -> default of desc; else "canica"

# Suffixes that BIDS has no name for yet, and folders of other formats: tools skip them.
BIDSIGNORE = (
    "study.json",
    "progress.json",
    "report.html",
    "models",
    "**/*_components.*",
    "**/*_metrics.tsv",
    "**/*_mixing.tsv",
    "**/*_stability.tsv",
    "**/*_statmap.*",
    "**/*_order.*",
    "**/*_profile.tsv",
    "**/*_connectivity.tsv",
    "**/*_engagement.tsv",
    "**/*_correlations.tsv",
    "**/*_tokens.tsv",
    "**/*_contexts.tsv",
    "**/*_topography.*",
    "**/*_effects.*",
    "**/*_controls.tsv",
    "**/*_items.tsv",
    "**/*_dose.*",
    "**/*_dosecontrols.tsv",
    "**/*_grid.*",
    "**/*_scale.nii.gz",
    "**/.*.part.*",
    "**/.*.lock",
)


def bids_label(text):
    """Keep the letters and digits of a text, all that a BIDS label may hold.

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


def file_name(kind, subject, task, session=None, **entities):
    """Path of a file relative to the root of the study.

    Parameters
    ----------
    kind : str
        A key of :data:`FILES`.
    subject, task : str
        Labels of the model and the corpus.
    session : str, optional
        Label of the checkpoint.
    **entities
        What the file's name holds besides: ``run`` and ``network`` (integers), ``site``, ``desc``.

    Returns
    -------
    str
        With forward slashes.

    Examples
    --------
    >>> file_name("bold", "gpt2", "demo", run=1)
    'sub-gpt2/func/sub-gpt2_task-demo_run-01_desc-mlp_bold.nii'
    """
    if kind not in FILES:
        raise ParameterError(f"Unknown kind of file {kind!r}; choose from {', '.join(FILES)}.")
    model = f"sub-{subject}" + (f"_ses-{session}" if session else "")
    fields = {
        "func": model.replace("_ses-", "/ses-") + "/func",
        "stem": f"{model}_task-{task}",
        "model": model,
        "task": task,
        "desc": _DESC.get(kind.split("_")[0].removesuffix("d"), "canica"),
        **DEFAULTS,
    }
    fields.update({name: _format(name, value) for name, value in entities.items() if value is not None})
    needed = re.findall(r"{(\w+)}", FILES[kind])
    missing = [name for name in needed if name not in fields]
    if missing:
        raise ParameterError(f"The file {kind!r} needs {' and '.join(missing)}, e.g. {missing[0]}=1.")
    unused = set(entities) - set(needed)
    if unused:
        raise ParameterError(f"The file {kind!r} has no {' or '.join(sorted(unused))}; it has {', '.join(needed)}.")
    return FILES[kind].format(**fields)


def _format(name, value):
    if name in ("run", "network"):
        return f"{int(value):02d}"
    return bids_label(value)
