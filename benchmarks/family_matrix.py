"""Model families that airlora adapts: what is found in a tiny random model of each, and whether it survives all steps.

python benchmarks/family_matrix.py                              # prints the table of docs/reference/models.md
python benchmarks/family_matrix.py --family phi3 --family t5    # some families

Every model is adapted and trained for some steps on random tokens, for classification and, if the family has one, as a
causal language model. Then the adapter is encoded as a stream and decoded into a new copy of the base model, and
exported and loaded by stock PEFT. Both must have the logits of the trained model.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import peft
import torch
import transformers as hf
from torch import Tensor, nn

from airlora.adapters import AdaptedModel, LowRankUpdate, base_fingerprint, inject, install_updates
from airlora.adapters.peft import export_peft
from airlora.codec import StreamHeader, decode_stream, encode_stream
from airlora.packing import Packing, make_encoder_input, pack_adapter
from airlora.tasks import CausalLM, Classification, ComputeOptions, EncodedData, Task

VOCABULARY, TOKENS, RANK, STEPS = 60, 9, 2, 12
END = 1

_BASE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
}
_GROUPED = _BASE | {"num_key_value_heads": 2}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY}
_SHORT = {"hidden_size": 32, "vocab_size": VOCABULARY}

FAMILIES: Mapping[str, Callable[[], Any]] = {
    "albert": lambda: hf.AlbertConfig(**_BASE, embedding_size=16),
    "bart": lambda: hf.BartConfig(
        d_model=32,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        vocab_size=VOCABULARY,
        num_labels=2,
    ),
    "bert": lambda: hf.BertConfig(**_BASE),
    "bloom": lambda: hf.BloomConfig(**_SHORT, n_layer=2, n_head=4),
    "deberta": lambda: hf.DebertaConfig(**_BASE, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "deberta-v2": lambda: hf.DebertaV2Config(**_BASE, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "distilbert": lambda: hf.DistilBertConfig(dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=VOCABULARY),
    "electra": lambda: hf.ElectraConfig(**_BASE, embedding_size=16),
    "falcon": lambda: hf.FalconConfig(**_SHORT, num_hidden_layers=2, num_attention_heads=4),
    "gemma2": lambda: hf.Gemma2Config(**_GROUPED, head_dim=8),
    "gemma3": lambda: hf.Gemma3TextConfig(**_GROUPED, head_dim=8),
    "glm": lambda: hf.GlmConfig(**_GROUPED, head_dim=8),
    "gpt2": lambda: hf.GPT2Config(**_GPT),
    "gpt-bigcode": lambda: hf.GPTBigCodeConfig(**_GPT),
    "gpt-j": lambda: hf.GPTJConfig(**_GPT, rotary_dim=4),
    "gpt-neo": lambda: hf.GPTNeoConfig(**_SHORT, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**_BASE),
    "llama": lambda: hf.LlamaConfig(**_GROUPED),
    "mistral": lambda: hf.MistralConfig(**_GROUPED, head_dim=8),
    "mixtral": lambda: hf.MixtralConfig(**_GROUPED, num_local_experts=2),
    "modernbert": lambda: hf.ModernBertConfig(**_BASE),
    "mpnet": lambda: hf.MPNetConfig(**_BASE),
    "mpt": lambda: hf.MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=VOCABULARY),
    "nemotron": lambda: hf.NemotronConfig(**_GROUPED),
    "olmo2": lambda: hf.Olmo2Config(**_GROUPED),
    "opt": lambda: hf.OPTConfig(
        **_SHORT, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4
    ),
    "phi": lambda: hf.PhiConfig(**_BASE),
    "phi3": lambda: hf.Phi3Config(**_GROUPED),
    "qwen2": lambda: hf.Qwen2Config(**_GROUPED),
    "qwen2-moe": lambda: hf.Qwen2MoeConfig(
        **_GROUPED,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "qwen3": lambda: hf.Qwen3Config(**_GROUPED, head_dim=8),
    "roberta": lambda: hf.RobertaConfig(**_BASE),
    "smollm3": lambda: hf.SmolLM3Config(**_GROUPED),
    "stablelm": lambda: hf.StableLmConfig(**_GROUPED),
    "starcoder2": lambda: hf.Starcoder2Config(**_GROUPED),
    "t5": lambda: hf.T5Config(
        d_model=32, d_ff=48, num_layers=2, num_heads=4, d_kv=8, vocab_size=VOCABULARY, decoder_start_token_id=0
    ),
}
"""Configuration of a tiny model by family."""

KINDS = {
    "classification": hf.AutoModelForSequenceClassification,
    "causal-lm": hf.AutoModelForCausalLM,
}
"""Class of `transformers` that loads a model for a task."""


@dataclass(frozen=True)
class FamilyResult:
    """Result of one family and task.

    Args:
        family: Key of `FAMILIES`.
        task: Key of `KINDS`.
        roles: Number of adapted modules by role.
        skipped: Warnings on layers that are not adapted.
        loss_ratio: Loss after training, relative to the loss before.
        effect: Largest change of the logits by the components, relative to the largest logit.
        qat_components: Number of components in a stream after two steps of quantisation-aware fine-tuning.
        stream_error: Largest difference of the logits after a stream of 32 bits, relative to the largest logit.
        peft_error: The same after the export to stock PEFT.
    """

    family: str
    task: str
    roles: dict[str, int]
    skipped: list[str]
    loss_ratio: float
    effect: float
    qat_components: int
    stream_error: float
    peft_error: float

    @property
    def is_right(self) -> bool:
        """Whether the model learnt, the components have an effect, and both ways kept the logits."""
        is_adapted = self.loss_ratio < 1.0 and self.effect > 0.05 and self.qat_components > 0
        return is_adapted and max(self.stream_error, self.peft_error) < 1e-4


class _Warnings(logging.Handler):
    """Handler that keeps the messages of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def make_model(family: str, task: str, seed: int) -> nn.Module | None:
    """Return a tiny random model, or None if the family has none for the task."""
    config = FAMILIES[family]()
    config.pad_token_id, config.eos_token_id = 0, END
    if task == "causal-lm" and type(config) not in hf.MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    if task == "causal-lm" and (family in ENCODERS or getattr(config, "is_encoder_decoder", False)):
        return None
    if task == "classification" and type(config) not in hf.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = KINDS[task].from_config(config)
    return model.float().eval()


ENCODERS = frozenset(
    {"albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta"}
)
"""Families that read a text in both directions, so that they are no causal language models."""


def make_batch() -> dict[str, Tensor]:
    """Return random tokens of four samples, each with an end-of-text token at its end."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, VOCABULARY, (4, TOKENS), generator=generator)
    ids[:, -1] = END
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def measure(family: str, task: str) -> FamilyResult | None:
    """Return the result of a family, or None if it has no model for the task."""
    model = make_model(family, task, seed=0)
    if model is None:
        return None
    heard, adapters_log = _Warnings(), logging.getLogger("airlora.adapters")
    adapters_log.addHandler(heard)
    fingerprint = base_fingerprint(model)
    adapted = inject(model, r_max=RANK, seed=0, scale=2.0)
    adapters_log.removeHandler(heard)
    before, after = _train(adapted, task)
    adapted.set_ranks([RANK] * len(adapted.shapes))
    wanted = _logits(adapted.model)
    adapted.set_ranks([0] * len(adapted.shapes))
    without = _logits(adapted.model)
    adapted.set_ranks([RANK] * len(adapted.shapes))
    streamed = _through_stream(adapted, family, task, fingerprint)
    fine_tuned = _through_qat(adapted, task, fingerprint)
    with tempfile.TemporaryDirectory() as folder:
        export_peft(adapted, folder, base_model=family)
        exported = _logits(peft.PeftModel.from_pretrained(_fresh(family, task), folder).eval())
    scale = wanted.abs().max().item()
    return FamilyResult(
        family,
        task,
        dict(Counter(site.role for site in adapted.sites)),
        heard.messages,
        after / before,
        (wanted - without).abs().max().item() / scale,
        fine_tuned,
        (streamed - wanted).abs().max().item() / scale,
        (exported - wanted).abs().max().item() / scale,
    )


def _fresh(family: str, task: str) -> nn.Module:
    """Return the base model with another head."""
    model, other = make_model(family, task, seed=0), make_model(family, task, seed=9)
    assert model is not None
    assert other is not None
    for name, module in model.named_children():
        if name in ("classifier", "score", "classification_head", "pre_classifier"):
            module.load_state_dict(other.get_submodule(name).state_dict())
    return model


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**make_batch()).logits
    return logits


def _train(adapted: AdaptedModel, task: str) -> tuple[float, float]:
    batch, losses = make_batch(), []
    targets = batch["input_ids"] if task == "causal-lm" else torch.tensor([0, 1, 0, 1])
    adapted.set_ranks([RANK] * len(adapted.shapes))
    parameters = [own for own in adapted.model.parameters() if own.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.02)
    for _ in range(STEPS):
        logits = adapted.model(**batch).logits
        if task == "causal-lm":
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
        else:
            loss = nn.functional.cross_entropy(logits, targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses[0], losses[-1]


def _through_qat(adapted: AdaptedModel, task: str, fingerprint: str) -> int:
    """Return the number of components in a stream after some steps of quantisation-aware fine-tuning."""
    batch = make_batch()
    ids = [row.numpy() for row in batch["input_ids"]]
    own: Task = CausalLM() if task == "causal-lm" else Classification(label_names=("no", "yes"))
    columns = {"input_ids": ids, "labels": ids if task == "causal-lm" else [0, 1, 0, 1]}
    data = EncodedData(own, columns, np.zeros((len(ids), 2), dtype=np.float32), pad_token_id=0)
    tensors = {name: tuple(value.shape) for name, value in adapted.head_state().items()}
    header = StreamHeader(fingerprint, adapted.shapes, tensors, r_max=RANK, scale=adapted.scale)
    compute = ComputeOptions(torch.device("cpu"), 0, 4, 4, "float32")
    packing = Packing(max_bytes=6000, qat_steps=2, whole=True)
    stream = pack_adapter(adapted, header, packing, compute, calibration=data, train=data)
    return decode_stream(stream, strict=True).num_components


def _through_stream(adapted: AdaptedModel, family: str, task: str, fingerprint: str) -> Tensor:
    compute = ComputeOptions(torch.device("cpu"), 0, 4, 4, "float32")
    source = make_encoder_input(adapted, "singular_value", compute)
    tensors = {name: tuple(own.shape) for name, own in adapted.head_state().items()}
    header = StreamHeader(fingerprint, adapted.shapes, tensors, r_max=RANK, scale=adapted.scale)
    packing = Packing(bits=32, layers=1)
    data = encode_stream(header, source.updates, source.head, **packing.options(has_head=bool(source.head)))
    decoded = decode_stream(data, strict=True)
    other = inject(_fresh(family, task), r_max=RANK, seed=5)
    install_updates(other, {name: LowRankUpdate(U, V) for name, (U, V) in decoded.modules.items()}, decoded.tensors)
    return _logits(other.model)


def table(results: list[FamilyResult]) -> str:
    """Return a Markdown table with a row per family. Differences are the largest of its tasks."""
    lines = [
        "| family | tasks | adapted modules of two layers | after a stream | in stock PEFT | not adapted |",
        "|---|---|---|---:|---:|---|",
    ]
    for family in dict.fromkeys(own.family for own in results):
        rows = [own for own in results if own.family == family]
        roles = ", ".join(f"{count} {role}" for role, count in rows[0].roles.items())
        skipped = "; ".join(message.split(": ", 2)[-1] for message in rows[0].skipped)
        stream, stock = max(own.stream_error for own in rows), max(own.peft_error for own in rows)
        tasks = ", ".join(own.task for own in rows)
        lines.append(f"| {family} | {tasks} | {roles} | {stream:.0e} | {stock:.0e} | {skipped} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", action="append", choices=sorted(FAMILIES), help="family to measure; repeatable")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    hf.logging.set_verbosity_error()
    torch.set_num_threads(1)
    results = [
        found
        for family in arguments.family or FAMILIES
        for task in KINDS
        if (found := measure(family, task)) is not None
    ]
    print(json.dumps([asdict(own) for own in results]) if arguments.json else table(results))
    if not all(own.is_right for own in results):
        wrong = ", ".join(f"{own.family} ({own.task})" for own in results if not own.is_right)
        raise SystemExit(f"not right: {wrong}")


if __name__ == "__main__":
    main()
