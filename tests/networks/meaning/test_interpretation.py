"""Interpretation and profiles: planted causes are named, artefacts marked, shared noise is not believed."""

import numpy as np
import pandas as pd
import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.networks.meaning.interpretation import align_events, correlate_events, interpret, top_contexts
from llmbrain.networks.meaning.profiles import kind_engagement, layer_profile
from llmbrain.networks.meaning.token_classes import classify_tokens, token_regressors

WORDS = [" the", " cat", "s", " 12", ".", " (", "def", "\\n", " Paris", '"', " =", " of"]


def smooth(rng, n, k=1, rho=0.7):
    x = rng.normal(size=(n, k))
    for t in range(1, n):
        x[t] = rho * x[t - 1] + np.sqrt(1 - rho**2) * x[t]
    return x


@pytest.fixture(scope="module")
def texts():
    """Three runs of 400 tokens in documents of 100, and six courses of known causes."""
    rng = np.random.default_rng(0)
    frames, courses = [], []
    for run in range(3):
        n = 400
        frame = pd.DataFrame({"token": rng.choice(WORDS, n), "position": np.arange(n) % 100})
        frame["document"] = [f"d{run}-{i // 100}" for i in range(n)]
        frame["kind"] = ["code" if i // 100 % 2 else "prose" for i in range(n)]
        frame["surprisal"] = rng.gamma(2, 1, n)
        frame["sink"] = (frame["position"] == 0).astype(int)
        course = 0.5 * smooth(rng, n, 6)
        course[:, 0] += 2 * (frame["token"] == " 12")
        course[:, 1] += 0.03 * frame["position"]
        course[:, 2] += 30 * frame["sink"]
        course[:, 3] += 2 * (frame["kind"] == "code")
        course[:, 4] += frame["surprisal"]
        frames.append(frame)
        courses.append(course)
    courses[1][77, 5] += 90.0
    return courses, frames


def test_planted_causes_are_named(texts):
    found = interpret(*texts, n_draws=99)
    labels = found.table["label"].tolist()
    assert labels[0] == "fires at numbers" and labels[4] == "fires at surprising tokens"
    assert found.table["best"].tolist()[:5] == ["number", "position", "sink", "kind:code", "surprisal"] or (
        found.table["best"][3] in ("kind:code", "kind:prose")
    )
    assert found.table["artefact"].tolist() == ["", "position", "sink", "", "", "few tokens"]
    assert labels[1] == "artefact: position" and labels[5] == "artefact: few tokens"
    top = found.tokens.query("network == 0 and side == 1").iloc[0]
    assert top["token"] == " 12" and top["n"] == sum((f["token"] == " 12").sum() for f in texts[1])
    numbers = found.correlations.query("network == 0 and regressor == 'number'").iloc[0]
    assert numbers["r"] > 0.7 and numbers["p_fwe"] < 0.05


def test_names_say_what_the_course_does_with_its_sign(texts):
    """The same network with its sign turned, one that pauses at a class, and one of which nothing is known."""
    rng, frames = np.random.default_rng(3), texts[1]
    courses = [course[:, [0, 0, 0, 0]].copy() for course in texts[0]]
    for course, frame in zip(courses, frames):
        course[:, 1] *= -1
        course[:, 2] = -2.0 * (frame["token"] == " 12") + rng.gamma(0.5, 1, len(frame))
        course[:, 3] = rng.laplace(size=len(frame))
    found = interpret(courses, frames, n_draws=99).table
    assert found["label"].tolist() == [
        "fires at numbers",
        "fires (negative) at numbers",
        "silent at numbers",
        "unnamed",
    ]
    assert found["side"].tolist()[:3] == [1, -1, 1]


def test_pieces_of_words_make_no_name():
    from llmbrain.networks.meaning.labels import candidate_name

    none = pd.DataFrame({"regressor": [], "r": [], "p_fwe": []})
    graded = pd.DataFrame({"regressor": ["log_frequency"], "r": [-0.5], "p_fwe": [0.01]})

    def tokens(*names, side=-1, n=9):
        return pd.DataFrame({"token": names, "side": side, "n": n, "mean": 2.0 * side})

    assert candidate_name(-1, "", none, tokens(" ", "Bu", "M")) == "unnamed"
    assert candidate_name(-1, "", none, tokens(" the", " a", "M")) == "fires (negative) at ' the', ' a'"
    assert candidate_name(-1, "", none, tokens(" the", " a", n=2)) == "unnamed"
    assert candidate_name(-1, "", graded, tokens(" the", " a")) == "fires (negative) at ' the', ' a'"
    assert candidate_name(1, "", graded, tokens(" the", " a")) == "silent at frequent words"
    assert candidate_name(1, "sink", graded, tokens(" the", " a")) == "artefact: sink"


@pytest.mark.parametrize(("after", "label"), [("ping", "unnamed"), (" men", "fires at ' ty', ' AD'")])
def test_the_beginning_of_a_word_is_no_name(after, label):
    """Followed by other parts of the word, a token that looks like a word is none."""
    names = np.array([" ty", after, " AD", after, *[" so", " we", " go", ","] * 5] * 20)
    course = np.isin(names, [" ty", " AD"]) * 3.0 + np.random.default_rng(0).standard_normal(len(names)) * 0.1
    assert interpret(course[:, None], pd.DataFrame({"token": names}), n_draws=39).table["label"].tolist() == [label]


def test_contexts_are_the_places_themselves(texts):
    courses, frames = texts
    contexts = interpret(courses, frames, n_top=3, width=4, n_draws=9).contexts
    peak = contexts.query("network == 5 and side == 1 and rank == 0").iloc[0]
    words = frames[1]["token"].tolist()
    assert (peak["run"], peak["row"], peak["token"]) == (1, 477, words[77])
    assert peak["before"] == "".join(words[73:77]) and peak["after"] == "".join(words[78:82])
    assert peak["document"] == "d1-0"
    rows = contexts.query("network == 0 and side == 1")["row"].to_numpy()
    assert np.abs(np.subtract.outer(rows, rows))[~np.eye(len(rows), dtype=bool)].min() > 4


def test_contexts_do_not_cross_documents():
    frame = pd.DataFrame({"token": list("abcdef"), "document": ["x"] * 3 + ["y"] * 3})
    z = np.array([0, 0, 5.0, 0, 0, 0])[:, None]
    row = top_contexts(z, frame, np.zeros(6, int), 1, 3).query("side == 1").iloc[0]
    assert (row["before"], row["token"], row["after"]) == ("ab", "c", "")


def test_shift_p_values_are_honest_for_autocorrelated_courses():
    # slow course and slow regressor without any relation: shuffling tokens would find one nearly always
    rng = np.random.default_rng(1)
    runs = np.repeat(np.arange(4), 150)
    shifted, shuffled = [], []
    for _ in range(80):
        z, x = smooth(rng, 600, 1, 0.97), smooth(rng, 600, 1, 0.97)
        table = correlate_events(z, pd.DataFrame({"x": x[:, 0]}), runs, n_draws=39, random_state=rng)
        shifted.append(table["p"][0] <= 0.05)
        null = [abs(np.corrcoef(rng.permutation(z[:, 0]), x[:, 0])[0, 1]) for _ in range(39)]
        shuffled.append((1 + sum(n >= abs(table["r"][0]) for n in null)) / 40 <= 0.05)
    wrong = [
        correlate_events(smooth(rng, 600, 4, 0.9), pd.DataFrame(smooth(rng, 600, 5, 0.9)), runs, n_draws=39)
        for _ in range(40)
    ]
    assert np.mean([(w["p_fwe"] <= 0.05).any() for w in wrong]) <= 0.15
    assert np.mean(shifted) <= 0.13 and np.mean(shuffled) > 0.4


def test_tables_do_not_depend_on_how_runs_are_given(texts):
    courses, frames = texts
    split = interpret(courses, frames, n_draws=9)
    joined = pd.concat(frames, ignore_index=True)
    assert np.allclose(split.table["position_r2"], interpret(courses, joined, n_draws=9).table["position_r2"])
    only = interpret(np.concatenate(courses), joined, n_draws=9)
    assert only.tokens.equals(split.tokens)
    with pytest.raises(ParameterError, match="rows"):
        align_events(courses, frames[:2] + [frames[2].iloc[:-1]])
    with pytest.raises(ParameterError, match="one array per run"):
        align_events([np.zeros((3, 2)), np.zeros((3, 1))], frames)


def test_token_classes():
    tokens = [" The", " cat", "s", " 12", "3", ".", " (", "):", '"', " ==", "\\n", "\n\n", " don't", "  ", "_x", "Ab"]
    table = classify_tokens(tokens)
    got = {t: {c for c in table if table[c][i]} for i, t in enumerate(tokens)}
    assert got[" The"] == {"word", "word_start", "capital"} and got[" cat"] == {"word", "word_start"}
    assert got["s"] == {"word", "word_part"} and got[" don't"] == {"word", "word_start"}
    assert got[" 12"] == got["3"] == {"number"} and got["."] == {"punctuation"}
    assert "bracket" in got[" ("] and "bracket" in got["):"] and got['"'] == {"quote"} and got[" =="] == {"operator"}
    assert "newline" in got["\\n"] and "newline" in got["\n\n"] and got["  "] == {"space"}
    assert got["Ab"] == {"word", "word_part", "capital"}  # right after a letter


def test_regressors_fill_gaps_and_drop_constants():
    frame = pd.DataFrame({"position": range(5), "surprisal": [np.nan, 1, 2, 3, 4], "sink": 0, "kind": "prose"})
    table = token_regressors(frame)
    assert list(table.columns) == ["position", "log_position", "surprisal"] and table["surprisal"][0] == 2.5
    with pytest.raises(ParameterError, match="describe no token"):
        token_regressors(pd.DataFrame({"onset": [1, 2]}))


# ----------------------------------------------------------------------------------------------- profiles
def test_layer_profile_of_maps_masks_and_thresholds():
    layer_of = np.repeat([0, 1, 2], [100, 50, 50])
    maps = np.zeros((3, 200))
    maps[0, :10], maps[1, 100:150], maps[1, 150:] = 3.0, 1.0, -1.0
    profile = layer_profile(maps, layer_of)
    assert np.allclose(profile, [[1, 0, 0], [0, 0.5, 0.5], [0, 0, 0]])
    assert np.allclose(layer_profile(maps != 0, layer_of), profile)
    assert np.allclose(layer_profile(maps, layer_of, threshold=2.0)[0], [1, 0, 0])
    with pytest.raises(ParameterError, match="neurons"):
        layer_profile(maps, layer_of[:-1])


def test_engagement_finds_the_kind_a_network_works_in(texts):
    table = kind_engagement(*texts, n_draws=499)
    wide = table.pivot(index="network", columns="kind", values="mean")
    assert wide.loc[3, "code"] - wide.loc[3, "prose"] > 1
    p = table.groupby("network")["p_mean"].first()
    assert p[3] <= 4 / 500 and p[[0, 1, 4]].min() > 0.01
    assert table.groupby("network")["q_mean"].first()[3] < 0.05
    assert table["n_documents"].eq(6).all()


def test_engagement_uses_documents_not_tokens():
    # documents differ from each other, kinds do not: tokens as units would call almost every draw significant
    rng = np.random.default_rng(2)
    document = np.repeat(np.arange(12), 50)
    frame = pd.DataFrame({"document": document, "kind": np.where(document % 2, "a", "b")})
    course = rng.normal(size=(12, 40))[document] + 0.1 * rng.normal(size=(600, 40))
    p = kind_engagement(course, frame, n_draws=199).groupby("network")["p_mean"].first()
    assert (p <= 0.05).mean() < 0.2
    with pytest.raises(ParameterError, match="lack"):
        kind_engagement(course, frame.drop(columns="kind"))
    with pytest.raises(ParameterError, match="compares kinds"):
        kind_engagement(course, frame.assign(kind="a"))
