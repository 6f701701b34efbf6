from __future__ import annotations

from collections.abc import Callable

import pytest
import transformers as hf
from torch import nn

from airlora.adapters import ProjectionSite, find_head, find_projections
from airlora.errors import ModelError, SettingsError
from airlora.ranks import ModuleShape

SIX = ["q", "k", "v", "o", "fc1", "fc2"]
SEVEN = ["q", "k", "v", "o", "fc1", "fc1", "fc2"]
ROLES_OF_LAYER = {
    name: SEVEN if name in ("llama", "qwen2", "qwen3", "mistral") else SIX
    for name in ("opt", "bert", "roberta", "distilbert", "gpt2", "llama", "qwen2", "qwen3", "mistral")
}
HEADS = {"bert": ("classifier",), "roberta": ("classifier",), "distilbert": ("pre_classifier", "classifier")}


def test_projections_of_every_family_are_listed_layer_by_layer(family: str, tiny: Callable[..., nn.Module]) -> None:
    sites = find_projections(tiny(family))
    roles = ROLES_OF_LAYER[family]
    assert [site.role for site in sites] == roles * 2
    assert [site.layer for site in sites] == [0] * len(roles) + [1] * len(roles)
    assert len({site.name for site in sites}) == len(sites)
    for site in sites:
        narrow = site.role in "kv" and roles is SEVEN
        expected = {"fc1": (32, 48), "fc2": (48, 32)}.get(site.role, (32, 16 if narrow else 32))
        assert (site.shape.d_in, site.shape.d_out) == expected


def test_head_of_every_family_is_found(family: str, tiny: Callable[..., nn.Module]) -> None:
    assert find_head(tiny(family)) == HEADS.get(family, ("score",))


def test_projections_of_bert_have_their_module_names(tiny: Callable[..., nn.Module]) -> None:
    layer = "bert.encoder.layer.1"
    assert [site.name for site in find_projections(tiny("bert"))][6:] == [
        f"{layer}.attention.self.query",
        f"{layer}.attention.self.key",
        f"{layer}.attention.self.value",
        f"{layer}.attention.output.dense",
        f"{layer}.intermediate.dense",
        f"{layer}.output.dense",
    ]


def test_fused_layer_gives_three_sites(tiny: Callable[..., nn.Module]) -> None:
    sites = find_projections(tiny("gpt2"))[:4]
    fused = "transformer.h.0.attn.c_attn"
    assert [site.name for site in sites] == [f"{fused}.q", f"{fused}.k", f"{fused}.v", "transformer.h.0.attn.c_proj"]
    assert [site.module_name for site in sites] == [fused, fused, fused, "transformer.h.0.attn.c_proj"]
    assert [site.suffix for site in sites] == ["q", "k", "v", None]
    assert find_projections(tiny("gpt2"), ["c_attn"])[:3] == sites[:3]


def test_targets_can_be_endings_of_names(tiny: Callable[..., nn.Module]) -> None:
    sites = find_projections(tiny("bert"), ["value", "query"])
    assert [(site.layer, site.role) for site in sites] == [(0, "q"), (0, "v"), (1, "q"), (1, "v")]


def test_targets_can_be_a_regular_expression(tiny: Callable[..., nn.Module]) -> None:
    sites = find_projections(tiny("llama"), r".*\.layers\.1\.mlp\.(up|down)_proj")
    assert [site.name for site in sites] == ["model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"]


@pytest.mark.parametrize("targets", [["dense"], ".*", "all-linear"])
def test_head_and_pooler_are_never_adapted(targets: list[str] | str, tiny: Callable[..., nn.Module]) -> None:
    for name in ("bert", "roberta"):
        sites = find_projections(tiny(name), targets)
        assert sites
        assert not [site.name for site in sites if "classifier" in site.name or "pooler" in site.name]


def test_lm_head_is_never_adapted() -> None:
    config = hf.OPTConfig(
        hidden_size=32, word_embed_proj_dim=16, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=60
    )
    names = [site.name for site in find_projections(hf.OPTForCausalLM(config), "all-linear")]
    assert "lm_head" not in names
    # Projections outside the numbered layers have no layer and no known role.
    other = [site for site in find_projections(hf.OPTForCausalLM(config), ["project_in", "fc1"]) if site.layer is None]
    assert other == [ProjectionSite("model.decoder.project_in", "other", None, ModuleShape(16, 32))]


def test_chosen_head_modules_are_not_adapted(tiny: Callable[..., nn.Module]) -> None:
    model = tiny("bert")
    names = [site.name for site in find_projections(model, head_modules=["layer.1.output.dense"])]
    assert len(names) == 11
    assert "bert.encoder.layer.1.output.dense" not in names


@pytest.mark.parametrize("targets", [["query", "c_attn"], ["classifier"], "query", ["uery"], r"score"])
def test_target_without_a_match_lists_the_linear_layers(
    targets: list[str] | str, tiny: Callable[..., nn.Module]
) -> None:
    with pytest.raises(ModelError, match=r"end in attention\.self\.query \(2\), .*, output\.dense \(2\)$"):
        find_projections(tiny("bert"), targets)


def test_the_layers_of_an_unknown_model_are_adapted_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(*[nn.ModuleDict({"mix": nn.Linear(2, 3), "gate": nn.Linear(2, 3)}) for _ in range(3)])
    blocks = nn.ModuleDict({"blocks": model, "last": nn.Linear(2, 3)})
    assert [site.role for site in find_projections(blocks)] == ["other"] * 6
    assert "an unknown architecture" in caplog.text
    assert "mix, gate" in caplog.text
    assert [site.role for site in find_projections(blocks, ["mix"])] == ["other"] * 3


def test_a_model_without_numbered_layers_lists_its_linear_layers() -> None:
    with pytest.raises(ModelError, match=r"set target_modules: .* end in mix \(1\)$"):
        find_projections(nn.ModuleDict({"mix": nn.Linear(2, 3)}))
    with pytest.raises(ModelError, match="the model has no linear layers"):
        find_projections(nn.Embedding(2, 3))


def test_output_projection_of_multihead_attention_is_not_adapted() -> None:
    model = nn.TransformerEncoderLayer(8, 2)
    assert [site.name for site in find_projections(model, "all-linear")] == ["linear1", "linear2"]


@pytest.mark.parametrize("targets", [[], "("])
def test_empty_targets_and_invalid_expressions_are_refused(
    targets: list[str] | str, tiny: Callable[..., nn.Module]
) -> None:
    with pytest.raises(SettingsError, match="target_modules"):
        find_projections(tiny("bert"), targets)


def test_head_modules_select_the_head_by_endings_of_names(tiny: Callable[..., nn.Module]) -> None:
    model = tiny("bert")
    assert find_head(model, ["pooler", "classifier"]) == ("bert.pooler", "classifier")
    assert find_head(model, "classifier") == ("classifier",)
    assert find_head(model, ()) == ()
    assert find_head(tiny("roberta"), ["classifier", "out_proj"]) == ("classifier",)
    assert find_head(hf.BertModel(model.config)) == ()
    with pytest.raises(ModelError, match=r"head_modules = 'score'.*consists of bert, dropout, classifier"):
        find_head(model, ["score"])
