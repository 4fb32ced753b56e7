"""What is done to a model that should still be recognised: training, pruning, quantisation, attacks on its weights.

Every function takes a Llama-style model and returns a changed copy. The attacks (`permuted`, `rotated`, `scaled`) do
not change the outputs; ``tests/subjects/test_fingerprints.py`` compares the logits.
"""

import copy

import torch
from train import read_ids, train


def _copy(model):
    return copy.deepcopy(model).requires_grad_(True)


def _linears(model):
    return [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]


# -- training -------------------------------------------------------------------------------------------------------
def finetuned(model, tokenizer, path, *, steps=150, batch=16, seed=0, rate=5e-4):
    """Train all weights on another text."""
    new = _copy(model)
    train(new, read_ids(tokenizer, path), steps=steps, batch=batch, seed=seed, rate=rate)
    return new.eval()


class _LowRank(torch.nn.Module):
    def __init__(self, linear, rank):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        down = torch.randn(rank, linear.in_features) / linear.in_features**0.5
        self.down = torch.nn.Parameter(down.to(linear.weight.device))
        self.up = torch.nn.Parameter(torch.zeros(linear.out_features, rank, device=linear.weight.device))

    def forward(self, x):
        return self.linear(x) + x @ self.down.T @ self.up.T

    def merged(self):
        with torch.no_grad():
            self.linear.weight += self.up @ self.down
        return self.linear


def lora(model, tokenizer, path, *, rank=8, steps=150, batch=16, seed=0, rate=2e-3):
    """Train low-rank changes of all linears of the decoder on another text, and add them to the weights."""
    torch.manual_seed(seed)
    new = _copy(model).requires_grad_(False)
    names = [n for n, m in new.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(new.get_submodule(parent), last, _LowRank(new.get_submodule(name), rank))
    adapters = [p for p in new.parameters() if p.requires_grad]
    options = {"steps": steps, "batch": batch, "seed": seed, "rate": rate, "parameters": adapters}
    train(new, read_ids(tokenizer, path), **options)
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(new.get_submodule(parent), last, new.get_submodule(name).merged())
    return new.eval()


def distilled(model, tokenizer, path, student, *, steps=400, batch=16, seed=0):
    """Train an untrained model on the probabilities of a teacher."""

    def probabilities(rows):
        with torch.no_grad():
            return model(rows, use_cache=False).logits.softmax(-1)

    train(student, read_ids(tokenizer, path), steps=steps, batch=batch, seed=seed, targets=probabilities)
    return student.eval()


def averaged(model, other):
    """Average the weights of two models of one family."""
    new, theirs = _copy(model), dict(other.named_parameters())
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            parameter.add_(theirs[name]).div_(2)
    return new


# -- compression ----------------------------------------------------------------------------------------------------
def pruned(model, tokenizer, calibration, ratio, max_tokens=None):
    """Prune MLP neurons with the recipe ``fast`` and shares by power, calibrated on ``max_tokens`` tokens."""
    import llmbrain as lb

    options = {"context": 256, **({"max_tokens": max_tokens} if max_tokens else {})}
    recipe = {"recipe": "fast", "allocation": "power", "options": options, "progress": False}
    return lb.prune(copy.deepcopy(model), tokenizer, calibration, ratio=ratio, **recipe).model


def quantised(model, bits, group=32):
    """Round the weights of all linears to integers: one scale per row for 8 bits, one per ``group`` weights below."""
    new, most = _copy(model), 2 ** (bits - 1) - 1
    with torch.no_grad():
        for linear in _linears(new):
            weight = linear.weight
            pieces = weight if bits >= 8 or weight.shape[1] % group else weight.reshape(-1, group)
            scale = pieces.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / most
            weight.copy_(((pieces / scale).round().clamp(-most - 1, most) * scale).reshape(weight.shape))
    return new


def noisy(model, share, seed=0):
    """Add noise to every weight matrix: ``share`` of its standard deviation."""
    new, generator = _copy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for linear in _linears(new):
            noise = torch.randn(linear.weight.shape, generator=generator)
            linear.weight += share * linear.weight.std() * noise.to(linear.weight.device)
    return new


# -- attacks that keep the outputs ----------------------------------------------------------------------------------
def permuted(model, seed=0):
    """Permute the hidden neurons of every MLP, and the groups of attention heads."""
    new, generator = _copy(model), torch.Generator().manual_seed(seed)
    config = new.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    groups, per_group = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
    with torch.no_grad():
        for layer in new.model.layers:
            mlp, attention = layer.mlp, layer.self_attn
            order = torch.randperm(mlp.down_proj.in_features, generator=generator)
            for linear in (mlp.gate_proj, mlp.up_proj):
                linear.weight.copy_(linear.weight[order])
            mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, order])
            order = torch.randperm(groups, generator=generator)
            rows = torch.arange(groups * size).reshape(groups, -1)[order].ravel()
            queries = torch.arange(groups * per_group * size).reshape(groups, -1)[order].ravel()
            for linear, where in ((attention.q_proj, queries), (attention.k_proj, rows), (attention.v_proj, rows)):
                for values in filter(lambda v: v is not None, (linear.weight, linear.bias)):
                    values.copy_(values[where])
            attention.o_proj.weight.copy_(attention.o_proj.weight[:, queries])
    return new


def _readers(layer):
    """Norms of a layer with the linears that read them."""
    attention, mlp = layer.self_attn, layer.mlp
    yield layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)
    yield layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)


def _untie(model):
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return head


def rotated(model, seed=0):
    """Fold the gains of all norms into the weights after them, and rotate the residual stream."""
    new, generator = _copy(model), torch.Generator().manual_seed(seed)
    head, width = _untie(new), new.config.hidden_size
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0].to(head.weight)
    with torch.no_grad():
        for layer in new.model.layers:
            for norm, linears in _readers(layer):
                for linear in linears:
                    linear.weight.copy_((linear.weight * norm.weight) @ turn)
                norm.weight.fill_(1)
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight.copy_(turn.T @ linear.weight)
        head.weight.copy_((head.weight * new.model.norm.weight) @ turn)
        new.model.norm.weight.fill_(1)
        embedding = new.get_input_embeddings()
        embedding.weight.copy_(embedding.weight @ turn)
    return new


def scaled(model, seed=0):
    """Move random factors between norms and what reads them, and between the linears of every MLP and of the values."""
    new, generator = _copy(model), torch.Generator().manual_seed(seed)

    def factors(n):
        return torch.exp(torch.randn(n, generator=generator)).to(model.device)

    with torch.no_grad():
        for layer in new.model.layers:
            for norm, linears in _readers(layer):
                factor = factors(len(norm.weight))
                norm.weight.mul_(factor)
                for linear in linears:
                    linear.weight.div_(factor)
            factor = factors(layer.mlp.up_proj.out_features)
            layer.mlp.up_proj.weight.mul_(factor[:, None])
            layer.mlp.down_proj.weight.div_(factor)
    return new
