"""Compare the models of a dataset: which networks they share, and what became of each."""

import itertools
import json
from dataclasses import dataclass, field

import numpy as np

from ..dataset import Study, find_results, find_studies, open_result, result_name, write_result
from ..dataset.staleness import lesions_of
from ..exceptions import DatasetError, LLMBrainError, check_count, check_seed
from ..networks import NetworkSet
from ..networks.evidence.matching import matched_scores
from ..stats import Interval
from .alignment import UNKNOWN, align, find_units, rebuild_text
from .confounds import regress_out, word_confounds
from .isc import isc_test
from .matching import KEPT, alternate_documents, check_kept_at, correlate_courses, match_both_ways
from .similarity import model_tree

LEAST_WORDS = 100
N_WORDS = 8  # example words of a network


@dataclass(frozen=True, eq=False)
class AlignedCourses:
    """Time courses of several models on the same words.

    Parameters
    ----------
    names : list of str
        Labels of the models.
    courses : list of array of shape (n_words, n_networks)
    words : list of str
    documents : array of shape (n_words,)
        Number of the document of each word.
    surprisal : array of shape (n_words,)
        Mean over the models, in nats.
    """

    names: list
    courses: list
    words: list
    documents: np.ndarray
    surprisal: np.ndarray

    def without(self, confounds):
        """Return the courses after regression on confounds, members of ``CONFOUNDS``."""
        if not confounds:
            return self.courses
        table = word_confounds(self.words, self.documents, confounds, self.surprisal)
        return [regress_out(course, table) for course in self.courses]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Networks of several models, compared on the words that all of them read.

    Parameters
    ----------
    shared : DataFrame
        One row per network of the first model: network; isc, p, q and p_fwe (correlation between models on texts that
        were not used for matching); n_kept (in how many of the other models it is kept); words (that drive it most).
    pairs : DataFrame
        One row per network and pair of models: model, other, network, match, chosen, score, explained, fate, p; and
        effect, effect_low, effect_high, match_effect, match_effect_low, match_effect_high, if both models have lesion
        studies of these networks with the same task, text and kind of lesion.
    similarity : DataFrame
        Mean score of the matched networks of each pair of models.
    info : dict
        Models, words, documents and settings; ``notes`` says which lesion studies were not compared.
    """

    shared: object
    pairs: object
    similarity: object
    info: dict = field(default_factory=dict)

    @property
    def tree(self):
        """Tree of the models by their similarity, see :func:`llmbrain.subjects.model_tree`."""
        return model_tree(self.similarity.to_numpy(), list(self.similarity.columns))

    def fates(self):
        """Number of networks kept, split and lost for each pair of models, a DataFrame."""
        table = self.pairs.groupby(["model", "other"], sort=False)["fate"].value_counts().unstack(fill_value=0)
        return table.reindex(columns=["kept", "split", "lost"], fill_value=0).reset_index()

    def save(self, study, name="comparison"):
        """Write the tables into a study as one result; returns the paths."""
        parts = {"comparison_shared": self.shared, "comparison_pairs": self.pairs}
        parts["comparison_similarity"] = self.similarity.rename_axis("model").reset_index()
        sources = self.info.get("sources")
        return write_result(study, "comparison", name, parts, self.info, sources=sources).paths

    @classmethod
    def of_result(cls, result):
        """Read an open result of a study."""
        tables = [result.read(f"comparison_{part}") for part in ("shared", "pairs", "similarity")]
        return cls(*tables[:2], tables[2].set_index("model"), result.info)


def compare_studies(
    studies, *, networks=None, confounds=("position", "frequency"), kept_at=KEPT, n_draws=99, random_state=0
):
    """Compare the networks of several models that read the same texts.

    Time courses are aligned on words, networks are matched one to one on every other document, and the matches are
    scored on the others. The correlation between models is tested by circular shifts.

    Parameters
    ----------
    studies : path-like, Study, or list of them
        A dataset with several models, or several studies; the first is the reference. Each needs networks.
    networks : str, optional
        Name of the networks, if a study holds several.
    confounds : sequence of str
        What is regressed out of all courses first: ``"position"``, ``"frequency"``, ``"punctuation"``, ``"surprisal"``.
    kept_at : float
        Correlation from which a matched network is kept, see :func:`llmbrain.subjects.match_courses`.
    n_draws : int
        Circular shifts for each p-value.
    random_state : int

    Returns
    -------
    Comparison

    Raises
    ------
    DatasetError
        If there are fewer than two models, two have one label, or they have no text, site or networks in common.

    Examples
    --------
    >>> compare_studies("dataset").fates()  # doctest: +SKIP
    """
    import pandas as pd

    check_seed(random_state)
    check_kept_at(kept_at)
    check_count("n_draws", n_draws)
    opened = _open_all(studies)
    sets = [_networks_of(study, networks) for study in opened]
    aligned = align_studies(opened, [one for one, _ in sets])
    courses, names = aligned.without(confounds), aligned.names
    options = {"kept_at": kept_at, "n_draws": n_draws, "random_state": random_state}
    matchings = _match_all(courses, aligned.documents, options)
    similarity = np.eye(len(names))
    for where, found in matchings.items():
        similarity[where] = np.nanmean(found.score)
    lesions = [_lesions_of(study, one) for study, one in zip(opened, sets)]
    pairs = _table_of_pairs(matchings, names, lesions)
    table = pd.DataFrame((similarity + similarity.T) / 2, index=names, columns=names)
    shared = _shared_networks(courses, aligned, pairs, n_draws, random_state)
    info = {
        "models": names, "n_words": len(aligned.words), "n_documents": int(len(np.unique(aligned.documents))),
        "confounds": list(confounds), "kept_at": kept_at, "n_draws": n_draws, "random_state": random_state,
        "notes": _unequal_lesions(lesions, names),
        "new": {f"{names[i]} {names[j]}": found.new for (i, j), found in matchings.items()},
        "sources": _sources(opened, [one.hash for one, _ in sets]),
    }  # fmt: skip
    return Comparison(shared, pairs, table, info)


def _sources(studies, hashes):
    """Networks and lesions that a comparison is made from, see :func:`llmbrain.dataset.write_result`."""
    both = {study.name: made for study, made in zip(studies, hashes)}
    lesions = {study.name: lesions_of(study, both[study.name]) for study in studies}
    return {"networks": hashes[:1], "others": {name: both[name] for name in list(both)[1:]}, "lesions": lesions}


def _match_all(courses, documents, options):
    """Match every pair of models in both directions: ``(i, j)`` -> CourseMatching, ordered by model."""
    found = {}
    for i, j in itertools.combinations(range(len(courses)), 2):
        found[i, j], found[j, i] = match_both_ways(courses[i], courses[j], documents, **options)
    return dict(sorted(found.items()))


def _table_of_pairs(matchings, names, lesions):
    """One table of all matchings, with the effects of lesions where both models have them."""
    import pandas as pd

    rows = []
    for (i, j), found in matchings.items():
        table = found.to_frame()
        table.insert(0, "model", names[i])
        table.insert(1, "other", names[j])
        rows.append(_with_lesions(table, lesions[i], lesions[j]))
    return pd.concat(rows, ignore_index=True)


def _open_all(studies):
    """Open the studies: all models of a dataset, or those that are listed; two must differ in their labels."""
    given = list(studies) if isinstance(studies, (list, tuple)) else [studies]
    opened = [study for one in given for study in ([one] if isinstance(one, Study) else find_studies(one))]
    if len(opened) < 2:
        raise DatasetError(
            f"{opened[0].root} holds one model ({opened[0].name}); a comparison needs at least two. Record another "
            "into it, or name a second study."
        )
    names = [study.name for study in opened]
    for name in names:
        if names.count(name) > 1:
            raise DatasetError(f"Two studies have the label {name}. Record one with another --subject or --session.")
    for study in opened:
        if (every := study.info["recording"].get("every") or 1) != 1:
            raise DatasetError(f"{study.name} was recorded with every={every}; words need all tokens (every=1).")
    return opened


def _networks_of(study, name):
    """Networks of a study with time courses, and their name."""
    try:
        name = result_name(study, "networks", name)
    except LLMBrainError as error:
        raise DatasetError(f"{study.name}: {error}") from error
    result = open_result(study, "networks", name)
    if result.stale:
        raise DatasetError(result.stale)
    found = NetworkSet.of_result(result)
    if found.time_courses is None:
        raise DatasetError(f"The networks {name} of {study.name} have no time courses. Find them again.")
    return found, name


def align_studies(studies, networks):
    """Align the time courses of several studies on the words that all of them cover.

    Parameters
    ----------
    studies : list of Study
    networks : list of NetworkSet
        One per study, of one site, with time courses.

    Returns
    -------
    AlignedCourses

    Raises
    ------
    DatasetError
        If sites differ, a recording does not say where its tokens lie, or fewer than two documents are shared.
    """
    sites = {study.name: one.geometry.site for study, one in zip(studies, networks)}
    if len(set(sites.values())) > 1:
        shown = ", ".join(f"{name}: {site}" for name, site in sites.items())
        raise DatasetError(
            f"The networks are of different sites ({shown}). Record and decompose one site in all models."
        )
    read = [_read(study, one) for study, one in zip(studies, networks)]
    # the halves alternate, so documents of one kind stand together: each half then has every kind of text
    shared = [name for name in read[0] if all(name in other for other in read)]
    documents = sorted(shared, key=lambda name: read[0][name]["kind"])
    if len(documents) < 2:
        raise DatasetError(
            f"{' and '.join(study.name for study in studies)} share {len(documents)} documents; a comparison needs "
            "two: one to match networks on, another to score them. Record the same text with all models."
        )
    courses, words, numbers, surprisal = [[] for _ in studies], [], [], []
    for number, name in enumerate(documents):
        text = _common_text(studies, [one[name] for one in read], name)
        units = find_units(text)
        columns = [align(np.c_[d["courses"], d["surprisal"]], d["spans"], units) for d in (one[name] for one in read)]
        kept = np.all([np.isfinite(x[:, :-1]).all(axis=1) for x in columns], axis=0)
        for into, x in zip(courses, columns):
            into.append(x[kept, :-1])
        totals = [align(one[name]["surprisal"], one[name]["spans"], units, total=True)[kept] for one in read]
        surprisal.append(np.mean(totals, axis=0))
        words += [word for word, keep in zip(units.names, kept) if keep]
        numbers += [number] * int(kept.sum())
    if len(words) < LEAST_WORDS:
        raise DatasetError(f"The models share {len(words)} words; at least {LEAST_WORDS} are needed. Record more text.")
    names = [study.name for study in studies]
    return AlignedCourses(
        names, [np.concatenate(x) for x in courses], words, np.array(numbers), np.concatenate(surprisal)
    )


def _read(study, networks):
    """Tokens, places, courses and surprisal of each document of a study, by the document's id."""
    recording = study.recording(networks.geometry.site)
    recording.check()
    events = recording.events
    if "start" not in events:
        raise DatasetError(
            f"{study.name} does not say where its tokens lie in the text, because its tokenizer gives no positions, or "
            "an earlier version recorded it. Record it again."
        )
    courses, events = _courses_of(study, networks, events)
    found = {}
    for name, rows in events.groupby("document", sort=False).indices.items():
        part = events.iloc[rows]
        spans = part[["start", "stop"]].fillna(-1).to_numpy(np.int64)
        tokens = part["token"].fillna("").tolist()
        kind = str(part["kind"].iloc[0]) if "kind" in part else ""
        found[name] = {"tokens": tokens, "spans": spans, "courses": courses[rows], "kind": kind}
        found[name]["surprisal"] = part["surprisal"].to_numpy(float)
    return found


def _courses_of(study, networks, events):
    """Time courses of the runs that are recorded, and the events of the runs that the networks were found on."""
    numbers = networks.info.get("runs") or range(1, len(networks.time_courses) + 1)
    known = dict(zip(numbers, networks.time_courses))
    events = events[events["run"].isin(list(known))].reset_index(drop=True)
    counts = events.groupby("run", sort=False).size()
    wrong = [run for run, n in counts.items() if n != len(known[run])]
    if wrong or not len(counts):
        run = f"run {wrong[0]}" if wrong else "any recorded run"
        raise DatasetError(f"The time courses of {study.name} do not fit {run}. Find its networks again.")
    return np.concatenate([known[run] for run in counts.index]), events


def _common_text(studies, documents, name):
    """Rebuild a document from the tokens of all models, and check that it is the same text in each."""
    own = [rebuild_text(one["tokens"], one["spans"]) for one in documents]
    text = own[0]
    for one, known in zip(documents, own):
        if UNKNOWN in text or len(known) > len(text):
            text = rebuild_text(one["tokens"], one["spans"], into=text)
    for study, known in zip(studies, own):
        if not text.startswith(known) and any(a != b and UNKNOWN not in (a, b) for a, b in zip(known, text)):
            raise DatasetError(
                f"The document {name!r} of {study.name} is another text than in the other models. Record the same "
                "corpus."
            )
    return text


def _shared_networks(courses, aligned, pairs, n_draws, random_state):
    """What all models share of each network of the first, with the words that drive it."""
    half = alternate_documents(aligned.documents)
    reference = courses[0]
    rows = [reference[~half]]
    for other in courses[1:]:
        index, there = matched_scores(correlate_courses(reference[half], other[half]), missing=0.0)
        matched = other[~half][:, np.maximum(index, 0)] * np.sign(there)
        matched[:, index < 0] = np.random.default_rng(random_state).standard_normal((len(matched), (index < 0).sum()))
        rows.append(matched)
    documents = aligned.documents[~half]
    isc = isc_test(np.stack(rows), documents=documents, n_draws=n_draws, random_state=random_state)
    table = isc.to_frame().rename(columns={"feature": "network"})
    own = pairs[pairs["model"] == aligned.names[0]]
    table["n_kept"] = [int((own.loc[own["network"] == k, "fate"] == "kept").sum()) for k in table["network"]]
    table["words"] = [example_words(course, aligned.words) for course in reference.T]
    return table


def example_words(course, words, n=N_WORDS):
    """The words with the strongest mean course, on the side where it is strongest, as one text."""
    names, index = np.unique([word.lower() for word in words], return_inverse=True)
    counts = np.bincount(index)
    z = (course - course.mean()) / max(course.std(), 1e-12)
    score = np.bincount(index, weights=z) / np.sqrt(counts)  # the mean, times the root of the number of occurrences
    sign = 1 if np.abs(score.max()) >= np.abs(score.min()) else -1
    return " ".join(names[np.argsort(-sign * score)[:n]])


def _with_lesions(table, own, others):
    """Add the effects of the lesions of each network and its match, where both are known for one text and lesion."""
    design = next((one for one in own if one in others), None)
    if design is not None:
        for prefix, known, key in (("", own[design], "network"), ("match_", others[design], "match")):
            found = [known.get(int(k), Interval(np.nan, np.nan, np.nan)) for k in table[key]]
            for field_, suffix in (("estimate", ""), ("low", "_low"), ("high", "_high")):
                table[f"{prefix}effect{suffix}"] = [getattr(one, field_) for one in found]
    return table


def _unequal_lesions(lesions, names):
    """One sentence for each pair of models whose lesion studies cannot be compared."""
    return [
        f"The lesions of {names[i]} and {names[j]} are not compared: they share no task on one text with one kind of "
        "lesion. Run 'llmbrain lesion' with the same options on both."
        for i, j in itertools.combinations(range(len(names)), 2)
        if lesions[i] and lesions[j] and not set(lesions[i]) & set(lesions[j])
    ]


def _lesions_of(study, networks):
    """Lesion studies of these networks: (task, text, kind of lesion) -> the effect of each network by its number."""
    from ..lesions import LesionResult

    own, _ = networks
    found = {}
    for name in find_results(study, "lesions"):
        result = open_result(study, "lesions", name)
        if own.hash not in (result.sources.get("networks") or ()) or result.stale:
            continue
        done = LesionResult.of_result(result)
        table = done.table[done.table["family"] == done.table["family"].iloc[0]]
        table = table.assign(number=table["network"].str.extract(r"^network-(\d+)$")[0]).dropna(subset="number")
        for task, rows in table.groupby("task", sort=False):
            about = done.info["tasks"].get(task.partition(":")[0], {})
            design = (task, about.get("corpus_hash"), json.dumps(done.info["lesion"], sort_keys=True))
            columns = zip(rows["number"].astype(int), rows["effect"], rows["ci_low"], rows["ci_high"])
            found.setdefault(design, {k: Interval(float(e), float(a), float(b)) for k, e, a, b in columns})
    return found
