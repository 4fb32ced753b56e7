"""The anatomy of decoders: the language model of multimodal ones, attention of hybrids, experts, norms and gates."""

import pytest
import torch
from tiny import ARCHITECTURES, HEADS, HIDDEN, INTERMEDIATE, N_LAYERS, tiny_model
from zoo import EXPERTS, HYBRID, MULTIMODAL, zoo_model

from llmbrain.exceptions import UnsupportedArchitectureError
from llmbrain.models import SITES, anatomy_of, find_sites, site_hooks

IDS = torch.tensor([[5, 17, 200, 44, 9, 3]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def lesioned(model, sites):
    with site_hooks(sites, lambda i, x: torch.zeros_like(x)):
        return logits(model)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parts_of_every_architecture(name):
    model = tiny_model(name)
    anatomy = anatomy_of(model)
    assert len(anatomy.layers) == N_LAYERS and anatomy.head is model.get_output_embeddings()
    for block in anatomy.blocks:
        assert block.module is model.get_submodule(block.name) and block.width == HIDDEN
        mlp, attention = block.mlp, block.attention
        assert mlp.size == (128 if name == "bloom" else INTERMEDIATE)
        assert {reader.size for reader in mlp.readers} == {mlp.size}
        assert all(model.get_submodule(r.name) is r.module for r in (*mlp.readers, *attention.readers))
        assert attention.n_heads == HEADS and attention.head_dim == attention.size // HEADS
        assert mlp.now() is not mlp and mlp.now().readers[0].stop == mlp.size


@pytest.mark.parametrize(
    ("name", "config"), [*((name, {}) for name in [*ARCHITECTURES, "olmo"]), ("opt", {"word_embed_proj_dim": 16})]
)
def test_the_final_norm_is_what_the_head_reads(name, config):
    """Also where it has no weights (OLMo), is defined before the blocks (OPT), or a projection follows."""
    model = zoo_model(name) if name == "olmo" else tiny_model(name, **config)
    anatomy, seen = anatomy_of(model), {}
    anatomy.layers[-1].register_forward_hook(lambda m, a, out: seen.update(last=out))
    anatomy.head.register_forward_pre_hook(lambda m, a: seen.update(head=a[0]))
    logits(model)
    last = seen["last"][0] if isinstance(seen["last"], tuple) else seen["last"]
    torch.testing.assert_close(anatomy.norm(last), seen["head"])


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "opt", "bloom", "gptj", "falcon", "glm4"])
def test_an_mlp_is_the_formula_of_its_parts(name):
    """Writer(activation(gate) * up), computed by hand from the parts, is what the MLP writes."""
    from llmbrain.models.linears import weight_of

    model = tiny_model(name)
    mlp, seen = anatomy_of(model).blocks[2].mlp, {}
    mlp.readers[0].module.register_forward_pre_hook(lambda m, a: seen.update(x=a[0]))
    mlp.writer.register_forward_hook(lambda m, a, out: seen.update(y=out.clone()))  # Falcon adds to it in place
    logits(model)

    def read(reader):
        out = seen["x"] @ weight_of(reader.module)[reader.start : reader.stop].T
        bias = getattr(reader.module, "bias", None)
        return out if bias is None else out + bias[reader.start : reader.stop]

    neurons = mlp.activation(read(mlp.gate)) * read(mlp.up) if mlp.is_gated else mlp.activation(read(mlp.up))
    written = neurons @ weight_of(mlp.writer).T
    written = written if mlp.writer.bias is None else written + mlp.writer.bias
    torch.testing.assert_close(written, seen["y"], rtol=1e-4, atol=1e-5)


# -- multimodal models ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", MULTIMODAL)
def test_sites_of_multimodal_models_lie_in_the_language_model(name):
    """The tower has as many layers of the same width; a lesion there would not change what is read of text."""
    model = zoo_model(name)
    before = logits(model)
    for site in SITES:
        found = find_sites(model, site)
        assert len(found) == 4
        assert not any(word in s.name for s in found for word in ("vision", "visual", "audio", "tower"))
        assert float((lesioned(model, found) - before).abs().max()) > 0.1


# -- hybrid models ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", HYBRID)
def test_hybrids_have_attention_where_there_is_attention(name):
    model = zoo_model(name)
    layers, found = HYBRID[name][0], find_sites(model, "attention")
    assert [s.layer for s in found] == layers
    assert [s.n_heads for s in found] == [4] * len(layers)
    assert not torch.equal(lesioned(model, found), logits(model))
    silent = [block.attention for block in anatomy_of(model).blocks if block.layer not in layers]
    assert silent == [None] * (4 - len(layers))


def test_layers_without_an_mlp_are_left_out():
    model = zoo_model("nemotron_h")
    assert [s.layer for s in find_sites(model)] == [2]
    assert [s.layer for s in find_sites(model, "layer")] == [0, 1, 2, 3]


# -- mixtures of experts ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", EXPERTS)
def test_experts_can_be_recorded_and_lesioned_as_a_whole(name):
    model = zoo_model(name)
    before = logits(model)
    for site in ("mlp_output", "layer", "attention"):
        found = find_sites(model, site)
        assert len(found) == 4
        seen = {}
        with torch.no_grad(), site_hooks(found, lambda i, x, seen=seen: seen.update({i: x.numel()})):
            model(input_ids=IDS, use_cache=False)
        assert seen == {i: 6 * s.size for i, s in enumerate(found)}
        assert float((lesioned(model, found) - before).abs().max()) > 1e-2
    with pytest.raises(UnsupportedArchitectureError, match="mixture of experts .*'mlp_output', 'attention'"):
        find_sites(model)


def test_what_the_experts_write_is_the_difference_they_make():
    """Residual streams with and without the experts of the last layer differ by the recorded ``mlp_output``."""
    model = zoo_model("mixtral")
    experts, layer, seen = find_sites(model, "mlp_output")[3:], find_sites(model, "layer")[3:], []
    with site_hooks(experts + layer, lambda i, x: seen.append(x.clone())):
        logits(model)
    with site_hooks(experts, lambda i, x: torch.zeros_like(x)), site_hooks(layer, lambda i, x: seen.append(x.clone())):
        logits(model)
    written, whole, without = (x.reshape(6, 32) for x in seen)
    torch.testing.assert_close(whole - without, written, rtol=1e-4, atol=1e-5)


def test_experts_beside_a_shared_mlp_have_no_single_output():
    import transformers

    config = transformers.GraniteMoeSharedConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=16, pad_token_id=0,
    )  # fmt: skip
    with pytest.raises(UnsupportedArchitectureError, match=r"shared_mlp.*Use the site 'layer'"):
        find_sites(transformers.GraniteMoeSharedForCausalLM(config), "mlp_output")
