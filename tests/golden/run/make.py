"""Make the golden runs: folders of `train` that every later version must open and resume.

python tests/golden/run/make.py

`base` is the base model; `train.tsv` and `eval.tsv` are the data. `finished` is a whole run. `interrupted` is the same
run after a signal in the middle of fine-tuning. The settings name the model and the data by relative paths, so this
folder must be the working directory when a run is opened. Run the script only for a new version of the format; then
keep the old files beside the new ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from airlora.observation import Observation
from airlora.policy import load_policy
from airlora.ranks import RankPattern
from airlora.training import Interrupted, Settings, load_settings, open_run, read_metrics, train

HERE = Path(__file__).parent
PRAISE, BLAME = ("great", "good", "fine", "loved"), ("bad", "awful", "poor", "hated")
WORDS = ("the", "a", "film", "food", "plot", "was", "very", "i", "it")
R_MAX = 3


def make_base() -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *PRAISE, *BLAME, "."]
    base = HERE / "base"
    base.mkdir()
    (base / "vocab.txt").write_text("\n".join(pieces) + "\n")
    BertTokenizerFast(vocab=str(base / "vocab.txt")).save_pretrained(base)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(base)


def make_data() -> None:
    generator = np.random.default_rng(0)
    for name, count in (("train.tsv", 60), ("eval.tsv", 12)):
        lines = ["label\ttext"]
        for row in range(count):
            label = row % 2
            text = list(generator.choice(WORDS, size=generator.integers(2, 6)))
            text.insert(int(generator.integers(len(text) + 1)), str(generator.choice(PRAISE if label else BLAME)))
            lines.append(f"{label}\t{' '.join(text)} .")
        (HERE / name).write_text("\n".join(lines) + "\n")


def make_settings() -> Settings:
    return load_settings(
        "quick",
        overrides={
            "seed": 3,
            "device": "cpu",
            "num_threads": 1,
            "tensorboard": False,
            "checkpoint_every": 3,
            "model.name": "base",
            "data.train": "train.tsv",
            "data.eval": "eval.tsv",
            "data.max_length": 12,
            "adapter.r_max": R_MAX,
            "adapter.scale": 2.0,
            "finetune.steps": 8,
            "finetune.batch_size": 4,
            "finetune.eval_every": 4,
            "finetune.learning_rate": 0.05,
            "finetune.head_learning_rate": 0.05,
            "finetune.precision": "float32",
            "channel.bandwidth_hz": [8e3],
            "env.episode_steps": 4,
            "env.frozen_batch_size": 3,
            "env.frozen_batches": 2,
            "policy.name": "airllm",
            "policy.constant_rank": 1,
            "policy.steps": 8,
            "policy.rollout_steps": 4,
            "ppo.hidden_size": 4,
            "diffusion.hidden_size": 4,
            "diffusion.num_blocks": 1,
            "diffusion.time_embedding_size": 4,
            "diffusion.num_train_timesteps": 20,
            "diffusion.num_inference_steps": 4,
            "diffusion.warmup_updates": 20,
            "diffusion.updates_per_stage": 4,
        },
    )


class InterruptAtStep:
    def __init__(self, step: int) -> None:
        self.at = step

    def phase(self, title: str, total: int, done: int = 0) -> None: ...

    def step(self, done: int, values: Any) -> None:
        if done == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def show(self, values: Any) -> None: ...


def write_expectations() -> None:
    run = open_run("finished")
    data = run.task.read(run.settings.data)
    arrays = {f"head.{name}": tensor.numpy() for name, tensor in run.adapted.head_state().items()}
    for name, update in run.adapted.updates.items():
        arrays |= {f"update.{name}.{key}": tensor.numpy() for key, tensor in update.state_dict().items()}
    arrays["logits"] = run.predict(data).logits.numpy()
    arrays["logits_at_full_rank"] = run.predict(data, RankPattern.constant(run.record.shapes, R_MAX)).logits.numpy()
    np.savez_compressed("expected.npz", **arrays)
    policy = load_policy(run.folder.policy_path)
    context = {"bandwidth_hz": 8e3, "entropy_nats": 1.5, "oov_rate": 0.1, "ranks": [1] * len(run.record.shapes)}
    observations = [
        {"snr_db": snr_db, "budget_params": size, **context} for snr_db, size in ((-5.0, 40), (5.0, 150), (15.0, 400))
    ]
    kinds = [line["kind"] for line in read_metrics("finished")]
    expected = {
        "settings": run.settings.model_dump(mode="json"),
        "record": run.record.to_dict(),
        "num_metrics": {kind: kinds.count(kind) for kind in kinds},
        "observations": observations,
        "decisions": [
            policy.decide(Observation(**o | {"ranks": np.array(o["ranks"], np.int64)})).tolist() for o in observations
        ],
    }
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def main() -> None:
    os.chdir(HERE)
    for name in ("base", "finished", "interrupted"):
        shutil.rmtree(name, ignore_errors=True)
    make_base()
    make_data()
    train(make_settings(), "finished")
    with contextlib.suppress(Interrupted):
        train(make_settings(), "interrupted", progress=InterruptAtStep(5))
    write_expectations()


if __name__ == "__main__":
    main()
