"""Sites: found in every architecture, of the right width, and what they claim to be."""

import re

import pytest
import torch
from tiny import ARCHITECTURES, HEADS, HIDDEN, INTERMEDIATE, N_LAYERS, REFUSED, tiny_model

from llmbrain.exceptions import ParameterError, UnsupportedArchitectureError
from llmbrain.geometry import NeuronGeometry
from llmbrain.models import SITES, anatomy_of, find_sites, site_hooks

GATED = {
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "olmo2", "cohere", "stablelm",
    "granite", "smollm3", "glm4",
}  # fmt: skip
IDS = torch.tensor([[256, 5, 17, 200, 44, 9]])
WIDTHS = {"attention": HIDDEN, "mlp_output": HIDDEN, "layer": HIDDEN}


def captured(model, sites, ids=IDS):
    """Activations of each site, as (tokens, neurons)."""
    seen = {}
    with (
        torch.no_grad(),
        site_hooks(sites, lambda i, x: seen.__setitem__(i, x.reshape(-1, x.shape[-1]).clone())),
    ):
        model(input_ids=ids, use_cache=False)
    return [seen[i] for i in range(len(sites))]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_site_of_every_architecture(name):
    model = tiny_model(name)
    for site in SITES:
        if site in ("mlp_gate", "mlp_up") and name not in GATED:
            with pytest.raises(UnsupportedArchitectureError, match=r"no gate .* use 'mlp'"):
                find_sites(model, site)
            continue
        found = find_sites(model, site)
        width = WIDTHS.get(site, 128 if name == "bloom" else INTERMEDIATE)
        assert [s.layer for s in found] == list(range(N_LAYERS))
        assert {(s.size, s.stop - s.start) for s in found} == {(width, width)}
        assert all(s.module is model.get_submodule(s.name) for s in found)
        assert {s.n_heads for s in found} == ({HEADS} if site == "attention" else {None})
        assert {x.shape for x in captured(model, found)} == {(6, width)}


@pytest.mark.parametrize("name", sorted(GATED))
def test_gate_times_up_is_mlp(name):
    model = tiny_model(name)
    mlp, gate, up = (captured(model, find_sites(model, site)) for site in ("mlp", "mlp_gate", "mlp_up"))
    for m, g, u in zip(mlp, gate, up):
        torch.testing.assert_close(m, g * u, rtol=0, atol=0)
        assert not torch.equal(g, u)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_writers_explain_their_outputs(name):
    """The MLP's writer maps its recorded input to its recorded output; the last block's output feeds the logits."""
    model = tiny_model(name)
    inputs, outputs = find_sites(model, "mlp"), find_sites(model, "mlp_output")
    for x, y, site in zip(captured(model, inputs), captured(model, outputs), inputs):
        torch.testing.assert_close(site.module(x), y)
    hidden = model(input_ids=IDS, output_hidden_states=True).hidden_states
    layers = captured(model, find_sites(model, "layer"))
    for i in range(N_LAYERS - 1):  # the last entry of hidden_states has been through the final norm
        torch.testing.assert_close(layers[i], hidden[i + 1][0])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attention_site_is_what_the_heads_write(name):
    """Silencing every head silences the attention: the output of its writer is its bias alone."""
    model = tiny_model(name)
    sites = find_sites(model, "attention")
    seen = {}
    handles = [s.module.register_forward_hook(lambda m, a, y, i=i: seen.__setitem__(i, y)) for i, s in enumerate(sites)]
    with torch.no_grad(), site_hooks(sites, lambda i, x: torch.zeros_like(x)):
        model(input_ids=IDS, use_cache=False)
    for handle in handles:
        handle.remove()
    for i, site in enumerate(sites):
        bias = getattr(site.module, "bias", None)
        expected = torch.zeros(HIDDEN) if bias is None else bias
        torch.testing.assert_close(seen[i].reshape(-1, HIDDEN), expected.expand(6, HIDDEN))


def test_a_fused_half_can_be_written():
    model = tiny_model("phi3")
    up, mlp = find_sites(model, "mlp_up"), find_sites(model, "mlp")
    with site_hooks(up[1:2], lambda i, x: torch.zeros_like(x)):
        values = captured(model, mlp)
    assert not values[1].any() and all(values[i].any() for i in (0, 2, 3))


def test_heads_of_grouped_queries():
    geometry = NeuronGeometry.from_model(tiny_model("llama"), site="attention")
    assert geometry.n_heads == (HEADS,) * N_LAYERS
    labels = geometry.to_array(geometry.heads_img).reshape(N_LAYERS, HEADS, HIDDEN // HEADS)
    assert (labels == labels[..., :1]).all() and labels[..., 0].ravel().tolist() == list(range(1, 17))


def test_square_projections_are_told_apart():
    """With as many key as query heads all four projections have one shape; and an MLP as wide as the stream."""
    model = tiny_model("llama", num_key_value_heads=HEADS, intermediate_size=HIDDEN)
    assert find_sites(model, "attention")[0].name == "model.layers.0.self_attn.o_proj"
    assert find_sites(model, "mlp")[0].name == "model.layers.0.mlp.down_proj"
    mlp, gate, up = (captured(model, find_sites(model, site))[0] for site in ("mlp", "mlp_gate", "mlp_up"))
    torch.testing.assert_close(mlp, gate * up, rtol=0, atol=0)


def test_a_model_without_weights_is_understood():
    import transformers

    with torch.device("meta"):
        config = transformers.Phi3Config(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            vocab_size=64,
            num_attention_heads=4,
            pad_token_id=0,
        )
        model = transformers.Phi3ForCausalLM(config)
    assert [s.size for s in find_sites(model, "mlp_up")] == [96, 96]
    assert find_sites(model, "mlp_up")[0].start == 96


def test_unequal_widths():
    model = tiny_model("llama")
    mlp = model.model.layers[2].mlp
    mlp.gate_proj, mlp.up_proj = torch.nn.Linear(HIDDEN, 20), torch.nn.Linear(HIDDEN, 20)
    mlp.down_proj = torch.nn.Linear(20, HIDDEN)
    assert [s.size for s in find_sites(model)] == [48, 48, 20, 48]
    assert NeuronGeometry.from_model(model).n_neurons == 164


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_experts_are_refused_by_name(name):
    model = tiny_model(name)
    with pytest.raises(
        UnsupportedArchitectureError, match=r"mixture of experts \(mlp: .*q_proj.*'mlp_output', 'attention'"
    ):
        find_sites(model)
    assert all(len(find_sites(model, site)) == N_LAYERS for site in ("attention", "mlp_output", "layer"))


def test_encoder_decoders_are_refused():
    with pytest.raises(UnsupportedArchitectureError, match="encoder-decoder .*decoder.block"):
        anatomy_of(tiny_model("t5"))


def test_what_is_not_understood_is_refused_with_the_modules_seen():
    model = tiny_model("gpt2")
    model.transformer.h[1].mlp.extra = torch.nn.Sequential(torch.nn.Linear(HIDDEN, 7), torch.nn.Linear(7, HIDDEN))
    with pytest.raises(UnsupportedArchitectureError, match=r"GPT2Block.*mlp.extra.0 \(32, 7\).*sites="):
        find_sites(model)


def test_one_module_for_all_layers_is_refused():
    model = tiny_model("llama")
    shared = torch.nn.SiLU()
    for block in model.model.layers:
        block.mlp.act_fn = shared
    assert find_sites(model, "mlp")
    with pytest.raises(UnsupportedArchitectureError, match="one module for several layers"):
        find_sites(model, "mlp_gate")


class TestByHand:
    def test_regular_expression(self):
        model = tiny_model("mixtral")
        found = find_sites(model, "mlp_output", sites=r"model\.layers\.\d+\.mlp")
        assert [(s.layer, s.where, s.size) for s in found] == [(i, "output", HIDDEN) for i in range(N_LAYERS)]
        assert captured(model, found)[3].shape == (6, HIDDEN)

    def test_equals_what_is_found(self):
        model = tiny_model("gpt2")
        assert find_sites(model, sites=r"transformer\.h\.\d+\.mlp\.c_proj") == find_sites(model)
        names = {s.layer: s.name for s in find_sites(model)}
        assert find_sites(model, sites=names) == find_sites(model)
        assert find_sites(model, sites=list(names.values())[::-1]) == find_sites(model)

    def test_fused_half(self):
        model = tiny_model("phi3")
        by_hand = find_sites(
            model,
            "mlp_up",
            sites={"names": r".*gate_up_proj", "start": INTERMEDIATE, "stop": 2 * INTERMEDIATE},
        )
        assert by_hand == find_sites(model, "mlp_up")

    @pytest.mark.parametrize(
        ("sites", "message"),
        [
            ("nothing", "matches no module"),
            ({0: "model.nothing"}, "no module 'model.nothing'"),
            (["model.norm"], "no layer number"),
            (r"model\.layers\.0\.mlp\.(up|gate)_proj", "one module for each layer"),
            ({"where": "input"}, "names, where"),
            ({"names": r".*up_proj", "where": "inside"}, "'input' or 'output'"),
            ({"names": r".*up_proj", "start": 40, "stop": 50}, "has 48 neurons"),
        ],
    )
    def test_mistakes_are_named(self, sites, message):
        with pytest.raises(ParameterError, match=re.escape(message)):
            find_sites(tiny_model("llama"), "mlp_up", sites=sites)


def test_unknown_site():
    with pytest.raises(ParameterError, match="Unknown site .neurons.*'mlp', 'attention'"):
        find_sites(tiny_model("llama"), "neurons")


def test_refused_models_are_the_ones_meant():
    assert set(REFUSED) == {"mixtral", "qwen3_moe", "t5"}


# -- beyond the supported list: shapes of modules that other decoders have --------------------------------------------
def from_config(kind, **options):
    import transformers

    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(kind, **{**sizes, "num_attention_heads": 4, **options})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def test_an_mlp_that_knows_its_layer_is_no_attention():
    model = from_config("hunyuan_v1_dense", num_key_value_heads=2, head_dim=8)
    assert [s.name for s in find_sites(model)] == [f"model.layers.{i}.mlp.down_proj" for i in range(2)]
    assert find_sites(model, "attention")[1].name == "model.layers.1.self_attn.o_proj"
    mlp, gate, up = (captured(model, find_sites(model, site))[1] for site in ("mlp", "mlp_gate", "mlp_up"))
    torch.testing.assert_close(mlp, gate * up, rtol=0, atol=0)


def test_a_norm_between_the_factors_and_the_writer_is_noticed():
    """BitNet's neurons are normalised before they are written: gate x up is not what the site 'mlp' holds."""
    model = from_config("bitnet", num_key_value_heads=2)
    assert find_sites(model, "mlp")[0].size == 48
    with pytest.raises(UnsupportedArchitectureError, match=r"exactly mlp.act_fn x mlp.up_proj in .*sites="):
        find_sites(model, "mlp_gate")


def test_blocks_that_return_lists():
    model = from_config("openai-gpt", n_embd=32, n_layer=2, n_head=4, n_positions=64)
    layers = find_sites(model, "layer")
    assert captured(model, layers)[1].shape == (6, 32)
    before = model(input_ids=IDS).logits
    with site_hooks(layers, lambda i, x: x * 2 if i == 1 else None):
        assert not torch.equal(model(input_ids=IDS).logits, before)


def test_state_space_models_have_no_heads():
    model = from_config("mamba", state_size=4, num_attention_heads=None)
    for site in ("mlp", "attention"):
        with pytest.raises(UnsupportedArchitectureError, match=r"MambaBlock.*mixer\..*sites="):
            find_sites(model, site)
    assert [s.size for s in find_sites(model, "layer")] == [32, 32]
