"""The station that finds the networks of a study."""

import json
import re

from .. import parallel
from ..dataset import Recording, open_recording
from ..exceptions import ParameterError, check_count, check_threshold
from ..networks.result import networks_name
from ..registry import Registry
from .sources import done_before

METHODS = Registry("method")  # each makes an estimator, whose module takes seconds to import


@METHODS.register("canica")
def _canica(n_init, **options):
    """Canonical ICA."""
    from ..networks import CanICA

    return CanICA(n_init=n_init, **options)


@METHODS.register("dictlearning")
def _dictionary(n_init, **options):
    """Sparse dictionary learning, which starts from one decomposition."""
    from ..networks import DictLearning

    return DictLearning(**options)


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
    recording = study if isinstance(study, Recording) else open_recording(study, site)
    # after a wrong study was refused, because these take seconds to import
    from ..networks import NetworkSet, gather_evidence
    from ..networks.engines.progress import show_progress
    from ..networks.engines.sources import keep_grams
    from ..networks.inputs import load_runs

    if site not in (None, recording.site):
        raise ParameterError(f"site={site!r}, but the recording is of the site {recording.site!r}.")
    check_threshold(threshold)
    check_count("n_repeats", n_repeats, least=0)
    if name is not None and not re.fullmatch("[0-9A-Za-z]+", str(name)):  # "a-b" would become "ab" and replace it
        raise ParameterError(f"name={name!r}: the name of networks holds letters (A to Z) and digits only.")
    METHODS.check(method)
    study, settings = recording.study, {
        "site": recording.site, "n_components": n_components, "method": method, "engine": engine,
        "threshold": threshold, "n_init": n_init, "n_repeats": n_repeats, "random_state": random_state,
        "recording": recording.source()["runs"],
    }  # fmt: skip
    if name is None and n_components != "auto":
        name = networks_name(method, n_components, recording.site)
    parallel.agree("settings or recordings", json.dumps(settings, sort_keys=True, default=str))
    parallel.check_shared_folder(study.root)
    if resume and name is not None and done_before(study, "networks", name, settings):
        return NetworkSet.load(study, name)
    estimator = METHODS[method](n_init, n_components=n_components, engine=engine, random_state=random_state)
    runs = load_runs(recording)
    if n_repeats:
        keep_grams(runs.sources)  # the evidence decomposes the same runs
    with show_progress(progress):
        networks = estimator.fit(runs).networks_.set_threshold(threshold)
        if parallel.main_process():
            networks.save(study, name, settings={**settings, "n_repeats": 0})
        if n_repeats:
            evidence = gather_evidence(networks, runs, n_repeats=n_repeats, random_state=random_state)
            if parallel.main_process():
                evidence.save(study, name, settings=settings)
            networks = evidence.networks
    parallel.barrier()  # until the files are written
    return networks
