"""Windows and runs: every token once, in order, with the context that the model saw."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import TEXTS, alone, quiet

from llmbrain.recording.windows import plan_recording
from llmbrain.text import TokenizedDocument, encode


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60), st.integers(0, 1)), min_size=1, max_size=8),
    st.integers(4, 40),
    st.integers(1, 90),
    st.integers(1, 5),
    st.one_of(st.none(), st.integers(2, 200)),
)
def test_a_plan_records_each_token_of_each_document_once(shapes, context, tokens_per_run, every, max_tokens):
    documents, k = [], 0
    for head, body, tail in shapes:
        n = head + body + tail
        special = np.array([True] * head + [False] * body + [True] * tail)
        documents.append(TokenizedDocument(np.arange(k, k + n), [""] * n, special, f"d{k}"))
        k += n
    plan = plan_recording(
        documents,
        context=context,
        warmup=context // 4,
        tokens_per_run=tokens_per_run,
        max_tokens=max_tokens,
        every=every,
    )
    expected = [
        (d, t)
        for d, document in enumerate(documents)
        for t in np.flatnonzero(~document.is_special)
        if (t - shapes[d][0]) % every == 0
    ][:max_tokens]
    got = [(w.document, t) for run in plan.runs for w in run.windows for t in w.kept_positions]
    assert got == expected
    for run in plan.runs:
        assert 0 < run.n_tokens <= tokens_per_run
        assert run.rows == list(np.cumsum([0] + [len(w.places) for w in run.windows[:-1]]))
        for window in run.windows:
            np.testing.assert_array_equal(
                window.ids[window.kept], documents[window.document].ids[window.kept_positions]
            )
            assert len(window) <= context


def test_runs_end_with_documents_where_they_can():
    documents = [TokenizedDocument(np.arange(n), [""] * n, np.zeros(n, bool), str(n)) for n in (30, 40, 25, 100, 5)]
    plan = plan_recording(documents, context=64, warmup=16, tokens_per_run=70)
    assert [[w.document for w in run.windows] for run in plan.runs] == [[0, 1], [2], [3], [3, 4]]
    assert [run.n_tokens for run in plan.runs] == [70, 25, 64, 41]


def test_a_window_gives_what_the_model_sees_in_it(llama, tokenizer, tmp_path):
    """A long document in windows: every token equals a plain pass over exactly its window, BOS at its head."""
    text = " ".join(TEXTS) * 3
    runs = quiet(llama, tokenizer, [text], tmp_path / "study", context=64, warmup=24, tokens_per_run=100)
    document = encode([text], tokenizer)[0]
    events, values = runs.events, np.concatenate([run.to_array() for run in runs])
    assert events["position"].tolist() == list(range(1, len(document)))
    assert (events.loc[events["window"] > 0, "window_position"] >= 24 + 1).all()
    for number, rows in events.groupby("window"):
        last, seen = int(rows["position"].iloc[-1]), int(rows["window_position"].iloc[-1])
        ids = document.ids[: last + 1] if number == 0 else np.append(256, document.ids[last - seen + 1 : last + 1])
        expected, nats = alone(llama, ids)
        np.testing.assert_allclose(values[rows.index], expected[rows["window_position"]], atol=1e-5)
        np.testing.assert_allclose(rows["surprisal"], nats[rows["window_position"]], atol=1e-4)
    assert len(runs) > 1 and runs.n_tokens == len(document) - 1


def test_a_longer_warmup_brings_tokens_closer_to_the_whole_document(llama, tokenizer, tmp_path):
    text = " ".join(TEXTS)[:110]
    whole, _ = alone(llama, encode([text], tokenizer)[0].ids)
    errors = []
    for warmup in (0, 16, 40):
        run = quiet(llama, tokenizer, [text], tmp_path / str(warmup), context=48, warmup=warmup)[0]
        errors.append(np.abs(run.to_array() - whole[1:]).mean())
    assert errors[0] > errors[1] > errors[2]
