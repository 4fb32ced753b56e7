"""Texts and small helpers of the tests of recording."""

from pathlib import Path

import numpy as np
import torch

from llmbrain.models import find_sites, site_hooks
from llmbrain.recording import record

TEXTS = [
    "The other hero entered the house.",
    "It is a note.",
    "On the third morning the old heron stood in the river and ate one more of the restless fish, as ever.",
    "def add(a, b):\n\treturn a + b\n",
]

HERON = (
    "The other heron stood in the river and ate one more of the restless fish. It is a note on the third morning, and "
    "the tide came in. "
)


def alone(model, ids, site="mlp"):
    """Activations and surprisals of one sequence by itself, the plain way."""
    seen = {}
    sites = find_sites(model, site)
    ids = torch.from_numpy(np.asarray(ids))[None]
    with (
        torch.no_grad(),
        site_hooks(sites, lambda i, x: seen.__setitem__(i, x.reshape(-1, x.shape[-1]).clone())),
    ):
        logits = model(input_ids=ids, use_cache=False).logits
    nats = -logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return torch.cat([seen[i] for i in range(len(sites))], 1).float().numpy(), np.append(np.nan, nats.numpy())


def quiet(model, tokenizer, corpus, out=None, **options):
    return record(model, tokenizer, corpus, out, progress=False, **options)


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}
