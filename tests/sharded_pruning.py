"""What test_sharded.py of pruning computes in one process and in several."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import llmbrain as lb
from llmbrain.exceptions import ParameterError
from llmbrain.parallel import main_process, processes, rank

RNG = np.random.default_rng(0)
WORDS = ["the", "cat", "sat", "on", "mat", "and", "rain", "in", "spain", "fell", "dog", "ran", "over", "hills", "quiet"]
TEXTS = [" ".join(RNG.choice(WORDS, 14)) for _ in range(18)]
SMALL = {"context": 48, "batch_size": 4}
CASES = {
    "fast": {"recipe": "fast", "options": SMALL},
    "refits": {"recipe": "best", "allocation": "power", "options": {**SMALL, "block_steps": 20}},
    "one window": {"recipe": "fast", "allocation": "trial", "options": {"context": 48, "max_tokens": 40}},
    "schur": {"recipe": "flap", "allocation": "schur", "compensation": "ridge", "options": SMALL},
    "search": {"recipe": "fast", "allocation": "search", "options": {**SMALL, "n_evaluations": 6}},
    "heads": {
        "recipe": "flap", "allocation": "curves", "ratio_of": "decoder",
        "options": {**SMALL, "heads": True, "head_score": "obs"},
    },
}  # fmt: skip
MEASURED = ("search", "heads")  # their allocations compare divergences, which rounding can turn


def compute(folder):
    """Prune in this process, which may be one of several; arrays by name."""
    model, tokenizer, out = tiny_model("llama"), tiny_tokenizer(), {}
    for case, arguments in CASES.items():
        pruned = lb.prune(model, tokenizer, TEXTS, 0.3, progress=False, measure=False, **arguments)
        out |= {f"{case} kept {i}": kept for i, kept in enumerate(pruned.kept)}
        out |= {f"{case} heads {i}": heads for i, heads in enumerate(pruned.kept_heads or [])}
        out |= {f"{case} weights {n}": w.float().numpy() for n, w in pruned.model.state_dict().items()}
        out[f"{case} table"] = pruned.table.drop(columns=["reconstruction"]).to_numpy(float)
    pruned.save_pretrained(folder / f"saved-{main_process()}")
    return out


def refusals():
    """What several processes refuse."""
    from torch.distributed.tensor import DeviceMesh, distribute_tensor

    with pytest.raises(ParameterError, match="recover=0.1 trains in one process"):
        lb.prune(tiny_model("llama"), tiny_tokenizer(), TEXTS, 0.3, recipe="fast", recover=0.1, options=SMALL)
    with pytest.raises(ParameterError, match="texts of process.* differ from those of process 1"):
        lb.prune(tiny_model("llama"), tiny_tokenizer(), TEXTS[rank() :], 0.3, recipe="fast", options=SMALL)
    model, mesh = tiny_model("llama"), DeviceMesh("cpu", [0, 1])
    linear = model.model.layers[1].mlp.up_proj
    linear.weight = torch.nn.Parameter(distribute_tensor(linear.weight.detach(), mesh))
    with pytest.raises(ParameterError, match="tensor parallelism or FSDP"):
        lb.prune(model, tiny_tokenizer(), TEXTS, 0.3)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    with processes():
        np.savez(folder / f"{rank()}.npz", **compute(folder))
        refusals()
