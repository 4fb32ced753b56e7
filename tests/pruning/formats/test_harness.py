"""EleutherAI's lm-evaluation-harness loads pruned folders by itself. Skipped by name where lm-eval is not installed."""

import harnessed
import numpy as np
import pytest
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb

TEXTS = ["the cat sat on the mat and then the rain in spain fell on it " * 3 + str(i) * i for i in range(10)]


@pytest.mark.parametrize(("format", "options"), [("hetero", {"trust_remote_code": True}), ("padded", {})])
def test_lm_eval_loads_a_pruned_folder(format, options, tmp_path):
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval (pip install 'llmbrain[eval]') is not installed")
    from lm_eval.models.huggingface import HFLM

    pruned = lb.prune(
        tiny_model("llama"), tiny_tokenizer(), TEXTS, 0.4, recipe="fast", measure=False, options={"context": 48}
    )
    pruned.save_pretrained(tmp_path / "m", format=format)
    manager, _ = harnessed.cats(tmp_path, n=8)

    def ask(model):
        found = lm_eval.simple_evaluate(
            model=model, tasks=["cats"], bootstrap_iters=0, log_samples=True, task_manager=manager
        )
        samples = sorted(found["samples"]["cats"], key=lambda s: s["doc_id"])
        return np.array([[np.ravel(r)[0] for r in s["filtered_resps"]] for s in samples], dtype=float)

    folder = HFLM(pretrained=str(tmp_path / "m"), device="cpu", dtype="float32", batch_size=4, **options)
    live = HFLM(pretrained=pruned.model, tokenizer=pruned.tokenizer, batch_size=4)
    assert [type(m).__name__.endswith("LlamaForCausalLM") for m in (folder.model, live.model)] == [True, True]
    given = ask(folder)
    assert given.shape == (8, 2) and np.isfinite(given).all()
    np.testing.assert_allclose(given, ask(live), atol=1e-4)
