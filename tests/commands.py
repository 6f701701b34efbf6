"""The command line as tests call it."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import peft
import torch

from airlora.adapters import load_base_model
from airlora.cli.app import main

TINY = {
    "data.max_length": 16,
    "adapter.r_max": 4,
    "adapter.scale": 2.0,
    "policy.name": "airllm",
    "policy.constant_rank": 2,
    "finetune.batch_size": 8,
    "finetune.precision": "float32",
    "finetune.learning_rate": 0.02,
    "finetune.head_learning_rate": 0.02,
    "finetune.eval_every": 20,
    "channel.bandwidth_hz": [2e4],
    "env.frozen_batch_size": 6,
    "env.frozen_batches": 3,
    "policy.steps": 16,
    "policy.rollout_steps": 8,
    "num_threads": 1,
    "tensorboard": "false",
    "diffusion.num_train_timesteps": 20,
    "diffusion.num_inference_steps": 4,
    "diffusion.updates_per_stage": 4,
    "diffusion.warmup_updates": 20,
    "checkpoint_every": 10,
}


def airlora(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the command line in this process, which saves loading torch for every call."""
    command, output, errors = list(map(str, arguments)), io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["airlora", *command]
    code: object = 0
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = argv
    assert isinstance(code, int)
    return subprocess.CompletedProcess(command, code, output.getvalue(), errors.getvalue())


def tiny_flags(model: Path, data: tuple[Path, Path], **overrides: object) -> list[str]:
    settings = TINY | {key.replace("__", "."): value for key, value in overrides.items()}
    flags = ["--train", str(data[0]), "--eval", str(data[1]), "--model", str(model)]
    for key, value in settings.items():
        flags += ["--set", f"{key}={value}"]
    return flags


def centred(logits: "np.ndarray") -> "np.ndarray":
    """Return logits less their mean over the classes, which a softmax does not depend on and streams do not send."""
    return logits - logits.mean(axis=1, keepdims=True)


def logits_by_peft(folder: Path, model: Path, data: Path) -> "np.ndarray":
    """Return what stock PEFT computes with an exported adapter of two classes, on a base whose head is another."""
    base, tokenizer = load_base_model(str(model), num_labels=2, seed=7)
    adapted = peft.PeftModel.from_pretrained(base, folder).eval()
    texts = [line.split("\t")[1] for line in data.read_text().splitlines()[1:]]
    with torch.no_grad():
        encoded = tokenizer(
            texts, padding=True, truncation=True, max_length=TINY["data.max_length"], return_tensors="pt"
        )
        return np.asarray(adapted(**encoded).logits)


def refused(result: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """Assert one clear line, exit code 2, and no traceback."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("airlora: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], lines[0]
