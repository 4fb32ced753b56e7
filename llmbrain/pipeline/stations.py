"""Stations of a study, one function each: read what is needed from the study folder and write the result into it."""

import hashlib
import inspect
import json
from pathlib import Path

from .. import parallel
from ..dataset import Recording, as_study, is_done, open_recording, open_result, write_result
from ..exceptions import DatasetError, ModelNotFoundError, ParameterError
from ..files import read_json, sha256, write_json

__all__ = [
    "compare_pruning",
    "current_networks",
    "find_networks",
    "lesion_networks",
    "load_study_model",
    "merge_shares",
]

MERGE = "merge"  # instead of a share: make the result of all

# What the pruning table compares, at one ratio and on one calibration text: score, allocation, compensation and how
# statistics are taken. Published rules take them once in the dense model, all tokens alike. Least squares counts each
# token relative to its residual stream: with few tokens, the handful with massive activations would decide the fit.
PRUNING_RECIPES = (
    ("random", "uniform", "none", "one-shot"),
    ("magnitude", "uniform", "none", "one-shot"),
    ("wanda", "uniform", "none", "one-shot"),
    ("flap", "global", "bias", "one-shot"),
    ("network", "uniform", "none", "one-shot"),
    ("network", "uniform", "affine", "one-shot, weighted"),
    ("flap", "power", "affine", "sequential, weighted"),
)
PASSAGE = 64  # least tokens of a document that a lesion study reads in one piece
PRUNING_VARIANTS = {
    "one-shot": {"propagation": "one-shot"},
    "one-shot, weighted": {"propagation": "one-shot", "token_weights": "stream"},
    "sequential, weighted": {"propagation": "sequential", "token_weights": "stream"},
}


def find_networks(
    study,
    *,
    site=None,
    n_components=20,
    method="canica",
    engine="torch",
    threshold=3.0,
    n_init=10,
    n_repeats=0,
    random_state=0,
    name=None,
    resume=False,
    progress=True,
):
    """Find the functional networks of a study's recording and write them into it.

    Parameters
    ----------
    study : path-like, Study or Recording
        Where the recording is.
    site : str, optional
        Which site, if several were recorded.
    n_components : int or "auto"
        Number of networks; "auto" chooses the number on which the halves of the text agree best.
    method : {"canica", "dictlearning"}
        The estimator.
    engine : {"torch", "nilearn"}
        The fast engine, or nilearn's for reference.
    threshold : float
        A neuron belongs to a network in the metrics if its \\|z\\| exceeds this.
    n_init : int
        Restarts of the decomposition.
    n_repeats : int
        Repetitions on bootstrapped runs for the evidence that each network is real, see
        :func:`llmbrain.networks.gather_evidence`; with 0 only the restarts are compared, which is weak evidence.
    random_state : int
        Seed.
    name : str, optional
        Name of the networks in the study; by default method, number and site, such as ``canica20``. Networks of the
        same name are replaced; a study may hold several of different names.
    resume : bool
        Return the study's networks of this name if they were made with the same settings from the same recording.
    progress : bool
        Show progress bars, if there is a terminal.

    Returns
    -------
    NetworkSet

    Notes
    -----
    The processes of :mod:`llmbrain.parallel` share the work: the neurons of all runs, the repetitions, and the halves
    of the text. All of them return the networks; the first one writes them.
    """
    from ..networks import CanICA, DictLearning, NetworkSet, gather_evidence
    from ..networks.engines.progress import show_progress
    from ..networks.result import networks_name

    recording = study if isinstance(study, Recording) else open_recording(study, site)
    if site not in (None, recording.site):
        raise ParameterError(f"site={site!r}, but the recording is of the site {recording.site!r}.")
    if method not in ("canica", "dictlearning"):
        raise ParameterError(f"Unknown method {method!r}. Choose canica or dictlearning.")
    study, settings = recording.study, {
        "site": recording.site, "n_components": n_components, "method": method, "engine": engine,
        "threshold": threshold, "n_init": n_init, "n_repeats": n_repeats, "random_state": random_state,
        "recording": recording.source()["runs"],
    }  # fmt: skip
    if name is None and n_components != "auto":
        name = networks_name(method, n_components, recording.site)
    parallel.agree("settings or recordings", json.dumps(settings, sort_keys=True, default=str))
    parallel.check_shared_folder(study.root)
    if resume and name is not None and _is_done(study, "networks", name, settings):
        return NetworkSet.load(study, name)
    options = {"n_components": n_components, "engine": engine, "random_state": random_state}
    estimator = CanICA(n_init=n_init, **options) if method == "canica" else DictLearning(**options)
    with show_progress(progress):
        networks = estimator.fit(recording).networks_.set_threshold(threshold)
        if parallel.main_process():
            networks.save(study, name, settings={**settings, "n_repeats": 0})
        if n_repeats:
            evidence = gather_evidence(networks, recording, n_repeats=n_repeats, random_state=random_state)
            if parallel.main_process():
                evidence.save(study, name, settings=settings)
            networks = evidence.networks
    parallel.barrier()  # until the files are written
    return networks


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
    threshold=3.0,
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
    threshold : float
        Neurons whose \\|z\\| exceeds this are lesioned.
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
    from ..lesions.checkpoint import check_shares
    from ..networks.labels import select_networks, split_choice

    study = as_study(study)
    parallel.check_shared_folder(study.root)
    if masks is None:
        wanted, which = split_choice(networks)
        name, found = current_networks(study, wanted)
        numbers = select_networks(study, which, name, found)
        chosen, empty = _masks_of_networks(found, numbers, threshold, n_networks)
        kept = {"threshold": threshold, "empty_networks": empty}
    else:
        name, chosen, kept = "masks", _given_masks(study, masks), {}
    recordings = {site: study.recording(site) for site in {s for mask in chosen for s in mask.geometry.site_names}}
    made = [
        _task(task, study, text, {"max_tokens": max_tokens, "bos": bos, "passage": PASSAGE, "context": context or 512})
        for task in tasks or ["loss"]
    ]
    for recording in recordings.values():
        recording.check()
    settings = {
        "masks": {mask.name: hashlib.sha256(mask.values.tobytes()).hexdigest()[:16] for mask in chosen},
        "networks": sorted({str(mask.info.get("networks")) for mask in chosen}),
        "tasks": [_task_id(task) for task in tasks or ["loss"]],
        "text": _heldout_of(study, text).hash if "loss" in (tasks or ["loss"]) else str(text), "how": how,
        "value": value, "strength": strength, "positions": positions, "controls": controls, "n_controls": n_controls,
        "max_tokens": max_tokens, "context": context, "bos": bos, "random_state": random_state,
        "recording": {site: one.source()["runs"] for site, one in recordings.items()},
    }  # fmt: skip
    parallel.agree("networks, text or settings", json.dumps(settings, sort_keys=True, default=str))
    if resume and _is_done(study, "lesions", name, settings):
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
        result.save(study, name, settings=_plain(settings))
        # tasks and shares have files of their own
        for left in unfinished.parent.glob(f"{unfinished.stem}*"):
            left.unlink(missing_ok=True)
    parallel.barrier()
    return result


def _own_files(tasks):
    """Names of the tasks that have a checkpoint of their own; None stands for all tasks on texts."""
    from ..lesions import CallableTask

    own = [task.name or task.function.__name__ for task in tasks if isinstance(task, CallableTask)]
    return own if len(own) == len(tasks) else [None, *own]


def _note_share(study, name, given):
    """Keep the arguments of a share in the study, with which :func:`merge_shares` makes the result."""
    kept = dict(given)
    for argument in ("study", "tokenizer", "resume", "share"):
        del kept[argument]
    if _plain(kept) is None:
        raise ParameterError("A share takes model, text, masks and tasks as names or files, so that it can be merged.")
    write_json(study.path("lesion_shares_json", desc=name), kept)


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
        options = read_json(found.path)
        options |= {} if model is None else {"model": model}
        options |= {} if device is None else {"device": device}
        merged[found.entities["desc"]] = lesion_networks(study, **options, share=MERGE)
    if not merged:
        raise DatasetError(
            f"{study.root} holds no shares. Run llmbrain record or lesion with --share 1/N to N/N first."
        )
    return merged


def _task_id(task):
    """Identify a task by its name and the hash of its file."""
    source = task.partition("=")[2] if isinstance(task, str) else ""
    return f"{task} {sha256(source)}" if source and Path(source).is_file() else task


def _plain(settings):
    """Return the settings, or None if JSON cannot hold them: functions and task objects cannot be compared later."""
    try:
        json.dumps(settings)
    except TypeError:
        return None
    return settings


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
    for mask in [masks] if isinstance(masks, (str, Path, NeuronMask)) else masks:
        if not isinstance(mask, NeuronMask):
            path, sites = Path(mask), study.sites()
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
    name, _, source = task.partition("=")
    member = TASKS[name]
    if source and member.source is None:
        raise ParameterError(f"The task {name!r} takes no file; {', '.join(n for n in TASKS if TASKS[n].source)} do.")
    if member.needs and not (source and member.needs == (member.source,)):
        advice = f"write {name}=FILE" if member.needs == (member.source,) else "make it in Python"
        raise ParameterError(f"The task {name!r} needs {', '.join(member.needs)}: {advice}.")
    given = {name: value for name, value in options.items() if name in inspect.signature(member.value).parameters}
    if source or member.source == "text":
        given[member.source] = source or _heldout_of(study, text)
    return member(**given)


def compare_pruning(
    study,
    model,
    tokenizer,
    *,
    calibration,
    test_text,
    networks=None,
    ratio=0.2,
    max_tokens=8192,
    max_test_tokens=3000,
    context=None,
    random_state=0,
    resume=False,
):
    """Prune a study's model by several recipes on the same calibration text and write the table into the study.

    Parameters
    ----------
    study : path-like or Study
        With networks; the table is written into it.
    model, tokenizer : transformers model and tokenizer
        The dense model; it is not changed.
    calibration, test_text : Corpus
        Text for the statistics, and other text for the perplexity.
    networks : str, optional
        Name of the networks, needed if the study holds several. The result gets the same name.
    ratio : float
        Share of the MLP neurons that is removed.
    max_tokens, max_test_tokens : int
        Most tokens of each text to use.
    context : int, optional
        Tokens of a window; by default 512, or the model's maximum.
    random_state : int
        Seed.
    resume : bool
        Return the table that the study holds if it was made with the same settings from the same networks and texts.

    Returns
    -------
    pandas.DataFrame
        See :func:`llmbrain.run_grid`.
    """
    from ..models import describe_model
    from ..pruning import run_grid

    study = as_study(study)
    name, found = current_networks(study, networks)
    context = pruning_context(model, max_tokens, context)
    recipes = pruning_recipes(model, found.z, max_tokens, context)
    info = {
        "calibration": {"corpus": calibration.name, "hash": calibration.hash, "n_tokens": max_tokens},
        "test_text": {"corpus": test_text.name, "hash": test_text.hash, "n_tokens": max_test_tokens},
        "context": context,
        "random_state": random_state,
        "ratio_of": "neurons",
        "options": {name: getattr(recipes[0].options, name) for name in ("ridge", "context")},
        "variants": PRUNING_VARIANTS,
    }
    sources = {
        "weights": describe_model(model)["weights_hash"], "networks": [found.hash],
        "text": {"calibration": calibration.hash, "test_text": test_text.hash},
    }  # fmt: skip
    settings = {**info, "ratio": ratio, "recipes": PRUNING_RECIPES, "sources": sources}
    if resume and _is_done(study, "pruning", name, settings):
        return open_result(study, "pruning", name).read("prune_table")
    measured = {"seeds": (random_state,), "context": context, "max_tokens": max_test_tokens}
    table = run_grid(model, tokenizer, calibration, test_text, recipes, ratios=(ratio,), settings=measured)
    write_result(study, "pruning", name, {"prune_table": table}, info, sources=sources, settings=settings)
    return table


def _is_done(study, kind, name, settings):
    done = _plain(settings) is not None and is_done(study, kind, name, settings)
    if done:
        print("   done before with the same settings")
    return done


def current_networks(study, name=None):
    """Open the networks of a study to work with them.

    Parameters
    ----------
    study : path-like or Study
    name : str, optional
        Needed if the study holds several sets of networks.

    Returns
    -------
    name : str
    networks : NetworkSet

    Raises
    ------
    DatasetError
        If there are none, or several and no name; if files do not belong together; or if the runs that the networks
        were found on have changed since.
    """
    from ..networks import NetworkSet

    found = open_result(as_study(study), "networks", name)
    if found.stale:
        raise DatasetError(found.stale)
    return found.name, NetworkSet.of_result(found)


def pruning_context(model, max_tokens, context=None):
    """Tokens of a window while pruning: ``context``, or 512, but no more than the calibration text or the model allow.

    Raises
    ------
    ParameterError
        If the model cannot read ``context`` tokens at once.
    """
    from ..models.inputs import longest_context

    longest = longest_context(model)
    if context is not None and longest and context > longest:
        raise ParameterError(f"context={context}: this model reads at most {longest} tokens at once.")
    return min(context or 512, max_tokens, longest or 512)


def pruning_recipes(model, networks, max_tokens, context):
    """Make the recipes that the pruning table compares.

    All have the same ridge penalty, by the rule for the calibration size: the text is too short to hold some out.
    """
    from ..geometry import NeuronGeometry
    from ..pruning import Recipe
    from ..pruning.compensation import default_ridge

    ridge = default_ridge(max_tokens, max(NeuronGeometry.from_model(model).sizes))
    options = {"max_tokens": max_tokens, "ridge": ridge, "context": context}
    return [
        Recipe(*names, {**options, **PRUNING_VARIANTS[variant]}, networks, name=variant)
        for *names, variant in PRUNING_RECIPES
    ]


def _stable_first(networks):
    """Numbers of the networks: first those that are not flagged, then the others."""
    return sorted(range(len(networks)), key=lambda k: (k in networks.flagged, k))


def _heldout_of(study, text):
    """Load the text to test on; by default the demo's held-out part for a study of the demo corpus."""
    from ..text import as_corpus, load_corpus

    if text is not None and text != "demo":
        return as_corpus(text)
    recorded = set(study.info["corpus"].get("document_hashes", ()))  # other corpora may be called demo, too
    if not recorded or not recorded <= {document.hash[:16] for document in load_corpus("demo")}:
        raise ParameterError("Pass held-out text with text= (--text), not the recorded text.")
    return load_corpus("demo", split="heldout")


def load_study_model(study, model=None, tokenizer=None, device="auto"):
    """Load the model of a study and check that it is the one that was recorded.

    Parameters
    ----------
    study : path-like or Study
    model : torch.nn.Module or str, optional
        The model, or where it is now; by default it is loaded by the name in the study.
    tokenizer : transformers.PreTrainedTokenizerBase, optional
        Needed if ``model`` is a loaded model.
    device : str

    Returns
    -------
    model, tokenizer

    Raises
    ------
    ModelNotFoundError
        If it has other weights than the recorded model.
    """
    from ..models import describe_model, load_model
    from ..models.loading import DEMO_NAME

    known = as_study(study).info["model"]
    name = model if model is not None else "demo" if known["id"] == DEMO_NAME else known["id"]
    opened, tokenizer = load_model(name, dtype=known["dtype"], device=device, tokenizer=tokenizer)
    found = describe_model(opened)["weights_hash"]
    if found != known["weights_hash"]:
        raise ModelNotFoundError(
            f"{name!r} is not the model of this study: its weights hash is {found}, the study's "
            f"{known['weights_hash']} ({known['id']}). Pass its location with model= (--model)."
        )
    return opened, tokenizer
