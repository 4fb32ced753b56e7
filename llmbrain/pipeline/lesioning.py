"""The station that lesions the networks of a study, whole or in shares."""

import hashlib
import inspect
import json
import os
from pathlib import Path

from .. import parallel
from ..dataset import as_study
from ..dataset.checks import read_own
from ..exceptions import DatasetError, ParameterError, check_count
from ..files import as_path, sha256, with_hashes, write_json
from ..networks.labels import select_networks, split_choice
from .sources import current_networks, done_before, heldout_of, load_study_model, plain_settings

MERGE = "merge"  # instead of a share: make the result of all
_NOT_NOTED = {"study", "tokenizer", "resume", "share"}  # arguments of a share that a merge gives itself
PASSAGE = 64  # least tokens of a document that a lesion study reads in one piece


def lesion_networks(
    study,
    *,
    networks=None,
    text=None,
    model=None,
    tokenizer=None,
    how="zero",
    value=None,
    strength=1.0,
    positions="all",
    threshold=None,
    n_networks=None,
    masks=None,
    tasks=None,
    controls=None,
    n_controls=20,
    max_tokens=600,
    context=None,
    bos="auto",
    device="auto",
    random_state=0,
    resume=False,
    share=None,
):
    """Lesion the networks of a study, and matched random sets, on text that was not used to find them.

    Parameters
    ----------
    study : path-like or Study
        With a recording, and networks unless ``masks`` is given.
    networks : str, optional
        Name of the networks, needed if the study holds several; the result gets the same name. ``"accepted"`` and
        ``"not-rejected"`` (by hand) or numbers choose some of them, as in ``"canica20:accepted"`` or ``"0,4-6"``.
    text : Corpus, str or list of str, optional
        Held-out text; by default the demo's own held-out part, if the study is of the demo corpus.
    model : torch.nn.Module or str, optional
        The model of the study, or where it is now; by default it is loaded by the name in the study.
    tokenizer : transformers.PreTrainedTokenizerBase, optional
        Needed if ``model`` is a loaded model.
    how : str
        Kind of lesion, see :func:`llmbrain.lesion`.
    value : float, optional
        Factor of ``scale``, offset of ``add``, or activity of ``clamp``.
    strength : float
        1 for the full lesion, less for a partial one.
    positions : {"all", "prompt", "generated", "last"}, list of int, or callable
        At which tokens the lesions act, see :func:`llmbrain.lesion`.
    threshold : float, optional
        Neurons whose \\|z\\| exceeds this are lesioned; by default that of the networks.
    n_networks : int, optional
        Number of networks to lesion: those that are not flagged first, by share of variance. All by default.
    masks : list of NeuronMask or path-like, optional
        Lesion these sets of neurons instead of the networks; the result is saved as ``desc-masks``.
    tasks : list, optional
        Tasks of :class:`llmbrain.LesionStudy`; names may be followed by a file, as in ``"minimal_pairs=pairs.jsonl"``.
        By default the loss on ``text``.
    controls : list of str, optional
        Control families, see :data:`llmbrain.masks.CONTROLS`; by default ``layer`` and ``layer+importance``.
    n_controls : int
        Random sets for each network and family.
    max_tokens : int
        Held-out tokens that each condition reads for the loss.
    context : int, optional
        Tokens that the model reads at once; by default 512, or the model's maximum.
    bos : {"auto", True, False}
        Special tokens at the head of every window, see :func:`llmbrain.text.leading_tokens`.
    device : str
        Device of the model.
    random_state : int
        Seed.
    resume : bool
        Return the result that the study holds if it was made with the same settings from the same networks and text.
    share : str, optional
        Measure only one share of the conditions: ``"3/40"`` is the third of forty; :func:`merge_shares` then makes the
        result. ``"merge"`` makes it with the arguments that are given here.

    Returns
    -------
    LesionResult, or None for one share
    """
    given = locals()
    from ..lesions import LesionResult, LesionStudy
    from ..lesions.checkpoint import check_shares, remove_checkpoints
    from ..masks import NeuronMask

    study = as_study(study)
    check_count("n_networks", n_networks, optional=True)
    masks = [masks] if isinstance(masks, (str, os.PathLike, NeuronMask)) else masks
    for what, values in {"masks": masks, "tasks": tasks, "controls": controls}.items():
        if values is not None and not (isinstance(values, (list, tuple)) and values):
            raise ParameterError(f"{what}={values!r} must be a list. Name at least one, or leave it out.")
    parallel.check_shared_folder(study.root)
    if masks is None:
        wanted, which = split_choice(networks)
        name, found = current_networks(study, wanted)
        numbers = select_networks(study, which, name, found)
        threshold = found.threshold if threshold is None else threshold
        chosen, empty = _masks_of_networks(found, numbers, threshold, n_networks)
        kept = {"threshold": threshold, "empty_networks": empty}
    else:
        name, chosen, kept = "masks", _given_masks(study, masks), {}
    recordings = {site: study.recording(site) for site in {s for mask in chosen for s in mask.geometry.site_names}}
    made = [
        _task(
            task,
            study,
            text,
            {"max_tokens": max_tokens, "bos": bos, "passage": PASSAGE, "context": 512 if context is None else context},
        )
        for task in tasks or ["loss"]
    ]
    for recording in recordings.values():
        recording.check()
    settings = {
        "masks": {mask.name: hashlib.sha256(mask.values.tobytes()).hexdigest()[:16] for mask in chosen},
        "networks": sorted({str(mask.info.get("networks")) for mask in chosen}),
        "tasks": [_task_id(task) for task in tasks or ["loss"]],
        "text": heldout_of(study, text).hash if "loss" in (tasks or ["loss"]) else str(text), "how": how,
        "value": value, "strength": strength, "positions": positions, "controls": controls, "n_controls": n_controls,
        "max_tokens": max_tokens, "context": context, "bos": bos, "random_state": random_state,
        "recording": {site: one.source()["runs"] for site, one in recordings.items()},
    }  # fmt: skip
    parallel.agree("networks, text or settings", json.dumps(settings, sort_keys=True, default=str))
    if resume and done_before(study, "lesions", name, settings):
        return LesionResult.load(study, name)
    unfinished = study.path("lesion_unfinished") if share is None else study.path("lesion_shares", desc=name)
    if share == MERGE:
        check_shares(unfinished, _own_files(made))
    elif share is not None:
        _note_share(study, name, given)
    model, tokenizer = load_study_model(study, model, tokenizer, device)
    lesions = LesionStudy(
        chosen, tasks=made, n_controls=n_controls, controls=controls or ("layer", "layer+importance"), how=how,
        reference=recordings if len(recordings) > 1 else next(iter(recordings.values())), random_state=random_state,
        options={"value": value, "strength": strength, "positions": positions},
    )  # fmt: skip
    if share not in (None, MERGE):
        return lesions.run_share(model, tokenizer, share, unfinished)
    if parallel.main_process():
        print(lesions.forecast(model, tokenizer)["text"])
    result = lesions.run(model, tokenizer, checkpoint=unfinished)
    result.info |= kept
    if parallel.main_process():
        result.save(study, name, settings=plain_settings(settings))
        remove_checkpoints(unfinished)
    parallel.barrier()
    return result


def merge_shares(study, *, model=None, device=None):
    """Put together the shares of a study: check the runs of its recording, and make the tables of its lesions.

    Parameters
    ----------
    study : path-like or Study
        In which ``llmbrain record --share`` or ``llmbrain lesion --share`` has run.
    model : str, optional
        Where the study's model is now, if not where the shares found it.
    device : str, optional
        Device of the model.

    Returns
    -------
    dict
        ``"runs"``: number of runs of a shared recording; and by the name of networks, a :class:`LesionResult`.

    Raises
    ------
    DatasetError
        If there are no shares, or some are missing, unfinished or of another study; the message names them.
    """
    from ..recording import check_shares

    study = as_study(study)
    n_runs = check_shares(study)
    merged = {} if n_runs is None else {"runs": n_runs}
    for found in study.find("lesion_shares_json"):
        options = _read_note(found.path)
        options |= {} if model is None else {"model": model}
        options |= {} if device is None else {"device": device}
        merged[found.entities["desc"]] = lesion_networks(study, **options, share=MERGE)
    if not merged:
        raise DatasetError(
            f"{study.root} holds no shares. Run llmbrain record or lesion with --share 1/N to N/N first."
        )
    return merged


def _own_files(tasks):
    """Names of the tasks that have a checkpoint of their own; None stands for all tasks on texts."""
    from ..lesions import CallableTask

    own = [task.name or task.function.__name__ for task in tasks if isinstance(task, CallableTask)]
    return own if len(own) == len(tasks) else [None, *own]


def _note_share(study, name, given):
    """Keep the arguments of a share in the study, with which :func:`merge_shares` makes the result."""
    kept = dict(given)
    for argument in _NOT_NOTED:
        del kept[argument]
    if plain_settings(kept) is None:
        raise ParameterError("A share takes model, text, masks and tasks as names or files, so that it can be merged.")
    write_json(study.path("lesion_shares_json", desc=name), with_hashes(kept))


def _read_note(path):
    """Content of the note of :func:`_note_share`."""
    known = set(inspect.signature(lesion_networks).parameters) - _NOT_NOTED
    noted = read_own(path, remedy := "Remove it, and repeat one share of llmbrain lesion.")
    if set(noted) != known:
        raise DatasetError(f"{path} was written by another version of llmbrain. {remedy}")
    return noted


def _task_id(task):
    """Identify a task by its name and the hash of its file."""
    source = task.partition("=")[2] if isinstance(task, str) else ""
    return f"{task} {sha256(source)}" if source and Path(source).is_file() else task


def _masks_of_networks(networks, numbers, threshold, n_networks):
    """Masks of some networks of a study that are not empty, and the names of the others."""
    first = [k for k in _stable_first(networks) if k in numbers]
    masks = networks.masks(threshold)
    masks = [masks[k] for k in sorted(first[:n_networks])]
    empty = [mask.name for mask in masks if not mask.count]
    masks = [mask for mask in masks if mask.count]
    if not masks:
        raise ParameterError(f"No network has a neuron with |z| > {threshold}; choose a lower threshold.")
    return masks, empty


def _given_masks(study, masks):
    """Read mask files; one without a sidecar is taken to have the neurons of the study's only site."""
    from ..masks import NeuronMask

    read = []
    for mask in masks:
        if not isinstance(mask, NeuronMask):
            path, sites = as_path(mask), study.sites()
            sidecar = path.with_name(path.name.partition(".nii")[0] + ".json")
            geometry = study.recording(sites[0]).geometry if not sidecar.is_file() and len(sites) == 1 else None
            mask = NeuronMask.load(path, geometry)
            mask = NeuronMask(mask.values, mask.geometry, mask.name or path.name.partition(".")[0], mask.info)
        read.append(mask)
    return read


def _task(task, study, text, options):
    """Make a task of a study from its name or from ``NAME=FILE``; a task on text reads the study's held-out text."""
    from ..lesions.tasks import TASKS

    if not isinstance(task, str):
        return task
    name, equals, source = task.partition("=")
    member = TASKS[name]
    if equals and not source:
        raise ParameterError(f"The task {task!r} names no file. Write {name}=FILE, or {name} alone.")
    if source and member.source is None:
        raise ParameterError(f"The task {name!r} takes no file; {', '.join(n for n in TASKS if TASKS[n].source)} do.")
    if member.needs and not (source and member.needs == (member.source,)):
        advice = f"write {name}=FILE" if member.needs == (member.source,) else "make it in Python"
        raise ParameterError(f"The task {name!r} needs {', '.join(member.needs)}: {advice}.")
    given = {name: value for name, value in options.items() if name in inspect.signature(member.value).parameters}
    if source or member.source == "text":
        given[member.source] = source or heldout_of(study, text)
    return member(**given)


def _stable_first(networks):
    """Numbers of the networks: first those that are not flagged, then the others."""
    return sorted(range(len(networks)), key=lambda k: (k in networks.flagged, k))
