"""Train an OPT of the paper's size with random weights, and measure time, memory and operations of every part.

    $ python benchmarks/true_scale.py --shape opt-125m --steps 16 --data sst2
    $ taskset -c 1 python benchmarks/true_scale.py --shape opt-1.3b --steps 15 --data sst2 --json opt-1.3b.json

The run is that of `airlora train` with the preset `paper` or `paper-literal`: the policy decides for each fine-tuning
step, and PPO and diffusion learn after every 15 steps. With fewer steps than that, decisions and learning stages are
measured apart, on random losses of a problem with the same modules. Accuracies mean nothing, since the weights are
random. OPT-1.3B in float32 takes 13.5 GB of memory where the largest batch has 1,088 tokens, and more for larger ones.

Nothing is downloaded. The benchmark makes a folder with OPT's configuration, seeded random weights in safetensors, and
a byte-level BPE tokenizer that is trained on the texts of the data. This tokenizer has fewer tokens than OPT's, so the
number of tokens of a batch differs from that of OPT. The table reports it.

Floating-point operations are counted from shapes: 2 a parameter and token for each matrix product, see `step_flops`.
Padding counts as tokens. The rate is that of all fine-tuning steps but the first, unless it is the only one. Each part
is timed twice: by the clock, and by the CPU time of the process. The second depends less on other jobs of the machine.

The extrapolation is no measurement. It takes the steps and evaluations of the preset without early stopping, the mean
batch of an epoch, the mean ranks of the measured steps, and one rate for all operations of the model. Policy and
checkpoints take the time that they took here, also at the rate of `--assume-tflops`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import OPTConfig, OPTForCausalLM, OPTModel, PreTrainedTokenizerFast
from transformers.utils import logging

from airlora.adapters import AdaptedModel
from airlora.env import RankAllocationEnv
from airlora.errors import AirloraError, ModelError
from airlora.observation import IntArray
from airlora.policy import Buffer
from airlora.policy.base import Stage
from airlora.policy.hierarchical import HierarchicalPolicy
from airlora.ranks import ModuleShape
from airlora.tasks import BatchOrder, find_task, pick_autocast, pick_device
from airlora.text import TextComplexity
from airlora.training import Algorithm1, FineTuner, RunContext, Settings, load_settings, problem_of, train, trainer
from airlora.training.policies import make_from_settings

SHAPES: Mapping[str, Mapping[str, int]] = {
    "opt-125m": {"hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "opt-1.3b": {"hidden_size": 2048, "ffn_dim": 8192, "num_hidden_layers": 24, "num_attention_heads": 32},
}
"""Sizes of the published models. The other values of the configuration are the same for both."""

TOKENIZER_SIZE = 8192
"""Tokens of the tokenizer. The model keeps the 50,272 rows of OPT's embedding."""

NUM_EVAL_SAMPLES = 32
"""Held-out samples of the run. The extrapolation counts all of the data set."""

TIMED = (
    ("set-up", trainer, "build_context"),
    ("step of Algorithm 1", Algorithm1, "step"),
    ("decision", HierarchicalPolicy, "explore"),
    ("fine-tuning step", FineTuner, "train_step"),
    (f"evaluation of {NUM_EVAL_SAMPLES} samples", FineTuner, "evaluate"),
    ("checkpoint", trainer, "save_checkpoint"),
)
"""Timed parts of a run: name, owner and attribute of the function."""


def config_of(shape: str) -> OPTConfig:
    """Return the configuration of a published OPT, a key of `SHAPES`."""
    sizes = SHAPES[shape]
    return OPTConfig(
        vocab_size=50_272,
        max_position_embeddings=2048,
        word_embed_proj_dim=sizes["hidden_size"],
        do_layer_norm_before=True,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
        **sizes,
    )


def num_params(config: OPTConfig) -> int:
    """Return the number of parameters of the decoder, without a head. No weights are made."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in OPTModel(config).parameters())


def make_tokenizer(texts: Sequence[str], folder: Path) -> None:
    """Train a byte-level BPE on texts and save it. Like OPT's, it puts `</s>` before each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=TOKENIZER_SIZE,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    roles = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)


def make_weights(shape: str, seed: int, dtype: str, folder: Path) -> None:
    """Draw weights as `transformers` does for a new model, and save them with the configuration in safetensors."""
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    OPTForCausalLM(config_of(shape)).to(getattr(torch, dtype)).save_pretrained(folder)


def make_model(shape: str, texts: Sequence[str], seed: int, dtype: str, folder: Path) -> None:
    """Make the folder of a model, or verify the shape of an existing one.

    The weights are made in a process of its own, so that the peak memory of this process is that of the run.

    Raises:
        ModelError: The folder has the configuration of another model, or the weights could not be made.
    """
    if (folder / "config.json").is_file():
        found = OPTConfig.from_pretrained(folder)
        if any(getattr(found, name) != size for name, size in SHAPES[shape].items()):
            raise ModelError(f"--model-dir {folder}: holds another model than {shape}; choose another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(texts, folder)
    process = multiprocessing.get_context("spawn").Process(target=make_weights, args=(shape, seed, dtype, folder))
    process.start()
    process.join()
    if process.exitcode:
        raise ModelError(f"weights of {shape}: the process that makes them ended with exit code {process.exitcode}")


@dataclass(frozen=True, slots=True)
class Pass:
    """A batch that went through the model.

    Args:
        num_samples: Samples of the batch.
        length: Tokens of its longest sample, to which all are padded.
        num_real_tokens: Tokens of the batch without padding.
        ranks: Ranks of the adapted modules, in order.
    """

    num_samples: int
    length: int
    num_real_tokens: int
    ranks: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the batch with padding."""
        return self.num_samples * self.length


def forward_flops(shapes: Sequence[ModuleShape], one: Pass, attention_width: int) -> float:
    """Return the operations of a forward pass: 2 P a token, 2 A a token, and 4 attention_width L a token.

    P is the sum of d_in d_out over the adapted modules, A the sum of r (d_in + d_out), and L the length. These modules
    are all matrix products of an OPT but those of the attention and of the classification head, which is small.

    Args:
        shapes: Shapes of the adapted modules.
        one: Batch and ranks.
        attention_width: Hidden size times the number of layers.
    """
    base = sum(shape.d_in * shape.d_out for shape in shapes)
    adapter = sum(rank * (shape.d_in + shape.d_out) for rank, shape in zip(one.ranks, shapes, strict=True))
    return one.num_tokens * (2.0 * base + 2.0 * adapter + 4.0 * attention_width * one.length)


def step_flops(
    shapes: Sequence[ModuleShape], one: Pass, attention_width: int, *, with_orthogonality: bool = True
) -> float:
    """Return the operations of a fine-tuning step: forward and backward pass, and the orthogonality penalty.

    The backward pass through a frozen weight costs as much as its forward pass. Through adapters and attention it costs
    twice as much. The penalty of Eq. 3 costs 6 r^2 (d_in + d_out) a module. The count includes the gradients of the
    first layer's inputs, which nobody needs: that is 1 % in 24 layers.

    Args:
        shapes: Shapes of the adapted modules.
        one: Batch and ranks.
        attention_width: Hidden size times the number of layers.
        with_orthogonality: Whether the penalty is part of the step.
    """
    base = 2.0 * one.num_tokens * sum(shape.d_in * shape.d_out for shape in shapes)
    others = forward_flops(shapes, one, attention_width) - base
    penalty = sum(6.0 * rank**2 * (shape.d_in + shape.d_out) for rank, shape in zip(one.ranks, shapes, strict=True))
    return 2.0 * base + 3.0 * others + (penalty if with_orthogonality else 0.0)


class Recorder:
    """Time, memory and batches of a run, recorded while `watch` is active.

    Args:
        device: Name of the device. Each timed part waits for a CUDA device.
    """

    def __init__(self, device: str) -> None:
        self._is_cuda = pick_device(device).type == "cuda"
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.cpu_seconds: dict[str, list[float]] = defaultdict(list)
        self.peak_bytes: dict[str, int] = {}
        self.training: list[Pass] = []
        self.evaluation: list[Pass] = []
        self.context: RunContext | None = None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Time the functions of `TIMED` and the policy's learning stages inside the block."""
        original = HierarchicalPolicy.stages

        def stages(policy: HierarchicalPolicy, buffer: Buffer, rollout: int) -> list[Stage]:
            return [(name, self._timed(f"stage {name}", run)) for name, run in original(policy, buffer, rollout)]

        with contextlib.ExitStack() as stack:
            for name, owner, attribute in TIMED:
                timed = self._timed(name, getattr(owner, attribute))
                stack.enter_context(mock.patch.object(owner, attribute, timed))
            stack.enter_context(mock.patch.object(HierarchicalPolicy, "stages", stages))
            yield
        self.peak_bytes["whole run"] = self.peak()

    def peak(self) -> int:
        """Return the peak memory so far, bytes: resident memory of this process, or allocated memory of the GPU."""
        if self._is_cuda:
            return int(torch.cuda.max_memory_allocated())
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def median(self, name: str, *, cpu: bool = False) -> float:
        """Return the median of a part, seconds. The first of several decisions and steps is left out."""
        values = (self.cpu_seconds if cpu else self.seconds)[name]
        warm = name in ("decision", "fine-tuning step", "step of Algorithm 1") and len(values) > 1
        return statistics.median(values[1:] if warm else values) if values else 0.0

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter(), time.process_time()
            result = function(*arguments, **options)
            if self._is_cuda:
                torch.cuda.synchronize()
            self.seconds[name].append(time.perf_counter() - start[0])
            self.cpu_seconds[name].append(time.process_time() - start[1])
            self.peak_bytes[name] = self.peak()
            if isinstance(result, RunContext):
                self._follow(result)
            elif name == "fine-tuning step":
                self._report()
            return result

        return call

    def _follow(self, context: RunContext) -> None:
        """Record each batch that goes through the model of a run."""
        self.context = context

        def record(module: torch.nn.Module, _: Any, inputs: Mapping[str, Any]) -> None:
            num_samples, length = inputs["input_ids"].shape
            ranks = tuple(context.adapted.rank_pattern.ranks)
            found = Pass(num_samples, length, int(inputs["attention_mask"].sum()), ranks)
            (self.training if module.training else self.evaluation).append(found)

        context.adapted.model.register_forward_pre_hook(record, with_kwargs=True)

    def _report(self) -> None:
        one = self.training[-1]
        print(
            f"fine-tuning step {len(self.training)}: {one.num_tokens} tokens, mean rank {np.mean(one.ranks):.1f}, "
            f"{self.seconds['fine-tuning step'][-1]:.2f} s, CPU time {self.cpu_seconds['fine-tuning step'][-1]:.2f} s",
            file=sys.stderr,
            flush=True,
        )


class RandomLosses:
    """An objective with the modules of an adapted model whose losses are random, to time learning stages.

    Args:
        adapted: Model whose modules are ranked. It is not run.
    """

    def __init__(self, adapted: AdaptedModel) -> None:
        self.shapes, self.r_max, self.head_params = adapted.shapes, adapted.r_max, adapted.head_params
        self._generator = np.random.default_rng(0)

    def reset(self, generator: np.random.Generator) -> None:
        """Take the generator of the episode."""
        self._generator = generator

    def complexity(self) -> TextComplexity:
        """Return the same text features at every step."""
        return TextComplexity(entropy_nats=2.5, oov_rate=0.2)

    def measure(self, ranks: IntArray) -> float:  # noqa: ARG002 (the signature of the protocol)
        """Return a loss between 0.5 and 1 nat."""
        return float(self._generator.uniform(0.5, 1.0))

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: no checkpoint is made."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore nothing."""


def measure_stages(settings: Settings, context: RunContext, device: str) -> Recorder:
    """Return the times of `policy.rollout_steps` decisions and of the learning stages after them, without the model."""
    env = RankAllocationEnv(
        RandomLosses(context.adapted),
        channel=settings.channel,
        env=settings.env,
        initial_rank=settings.policy.constant_rank,
        hidden_size=context.hidden_size,
    )
    recorder, rollout = Recorder(device), settings.policy.rollout_steps
    algorithm = Algorithm1(
        env,
        make_from_settings(settings, problem_of(env)),
        rollout_steps=rollout,
        buffer_size=max(rollout, settings.diffusion.buffer_size),
        seed=settings.seed,
    )
    with recorder.watch():
        for _ in range(rollout):
            algorithm.step()
    return recorder


def epoch_passes(context: RunContext, settings: Settings, ranks: tuple[int, ...]) -> list[Pass]:
    """Return the batches of one epoch of the training data."""
    lengths, size = context.train.lengths, settings.finetune.batch_size
    order = BatchOrder(lengths, size, settings.seed)
    batches = [lengths[order.take()] for _ in range(max(1, len(lengths) // size))]
    return [Pass(len(batch), int(batch.max()), int(batch.sum()), ranks) for batch in batches]


def summarise(
    settings: Settings, recorder: Recorder, stages: Recorder, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Return the measurements and the extrapolation as plain values for JSON."""
    context = recorder.context
    assert context is not None
    adapted, preset = context.adapted, load_settings(arguments.preset)
    shapes = list(adapted.shapes.values())
    width = int(adapted.model.config.hidden_size) * int(adapted.model.config.num_hidden_layers)
    count = functools.partial(
        step_flops,
        shapes,
        attention_width=width,
        with_orthogonality=settings.adapter.orthogonality_weight > 0.0,
    )
    flops = [count(one) for one in recorder.training]
    first = 1 if len(flops) > 1 else 0
    rates = {
        clock: sum(flops[first:]) / sum(values["fine-tuning step"][first:])
        for clock, values in (("clock", recorder.seconds), ("cpu_time", recorder.cpu_seconds))
    }
    mean_ranks = tuple(np.mean([one.ranks for one in recorder.training], axis=0).tolist())
    epoch = epoch_passes(context, settings, mean_ranks)
    held_out = len(
        context.task.read(settings.data.model_copy(update={"max_eval_samples": None, "num_eval": preset.data.num_eval}))
    )
    steps, num_evals = preset.finetune.steps, preset.finetune.steps // preset.finetune.eval_every
    eval_flops = [forward_flops(shapes, one, width) for one in recorder.evaluation]
    eval_flops_of_sample = sum(eval_flops) / sum(one.num_samples for one in recorder.evaluation)
    whole = steps * statistics.fmean(map(count, epoch)) + num_evals * held_out * eval_flops_of_sample

    def is_of_policy(name: str) -> bool:
        return name == "decision" or name.startswith("stage")

    def overhead(*, cpu: bool) -> float:
        """Return the seconds of policy and checkpoints in a whole run."""
        values = recorder.cpu_seconds if cpu else recorder.seconds
        decisions = steps + num_evals * preset.env.decision_steps
        names = [name for name in stages.seconds if name.startswith("stage")]
        return (
            values["decision"][0]
            + decisions * stages.median("decision", cpu=cpu)
            + steps // preset.policy.rollout_steps * sum(stages.median(name, cpu=cpu) for name in names)
            + steps // preset.checkpoint_every * recorder.median("checkpoint", cpu=cpu)
        )

    hours = {clock: (whole / rate + overhead(cpu=clock == "cpu_time")) / 3600 for clock, rate in rates.items()}
    if arguments.assume_tflops is not None:
        hours["assumed_rate"] = (whole / (arguments.assume_tflops * 1e12) + overhead(cpu=False)) / 3600
    names = [name for name, *_ in TIMED] + [name for name in stages.seconds if name.startswith("stage")]
    head = {id(parameter) for parameter in adapted.head_parameters()}
    updates = [parameter for update in adapted.updates.values() for parameter in update.parameters()]
    known = head | {id(parameter) for parameter in updates}
    on_bfloat16 = pick_autocast(settings.finetune.precision, context.device) is not contextlib.nullcontext
    return {
        "shape": arguments.shape,
        "preset": arguments.preset,
        "steps": len(recorder.training),
        "device": torch.cuda.get_device_name() if context.device.type == "cuda" else str(context.device),
        "threads": torch.get_num_threads(),
        "weights": settings.model.dtype,
        "autocast": "bfloat16" if on_bfloat16 else "none",
        "model_params": sum(p.numel() for p in adapted.model.parameters() if id(p) not in known),
        "adapter_params": sum(p.numel() for p in updates),
        "head_params": adapted.head_params,
        "modules": len(shapes),
        "r_max": adapted.r_max,
        "batch_size": settings.finetune.batch_size,
        "max_length": settings.data.max_length,
        "mean_rank": float(np.mean(mean_ranks)),
        "tokens_per_batch": statistics.fmean(one.num_tokens for one in recorder.training),
        "real_tokens_per_batch": statistics.fmean(one.num_real_tokens for one in recorder.training),
        "tokens_of_largest_batch": max(one.num_tokens for one in recorder.training),
        "tokens_per_batch_of_epoch": statistics.fmean(one.num_tokens for one in epoch),
        "tokens_of_largest_batch_of_epoch": max(one.num_tokens for one in epoch),
        "median_seconds": {name: (stages if is_of_policy(name) else recorder).median(name) for name in names},
        "median_cpu_seconds": {
            name: (stages if is_of_policy(name) else recorder).median(name, cpu=True) for name in names
        },
        "first_decision_seconds": recorder.seconds["decision"][0],
        "stages_measured_apart": stages is not recorder,
        "peak_bytes": {name: recorder.peak_bytes[name] for name in ("set-up", "fine-tuning step", "whole run")},
        "flops_per_step": statistics.fmean(flops),
        "flops_per_step_of_epoch": statistics.fmean(map(count, epoch)),
        "gflops_per_second": {clock: rate / 1e9 for clock, rate in rates.items()},
        "whole_run": {
            "steps": steps,
            "evaluations": num_evals,
            "held_out_samples": held_out,
            "flops": whole,
            "assumed_tflops": arguments.assume_tflops,
            "policy_and_checkpoint_hours": overhead(cpu=False) / 3600,
            "hours": hours,
        },
        "passes": [
            {
                "tokens": one.num_tokens,
                "length": one.length,
                "mean_rank": float(np.mean(one.ranks)),
                "flops": operations,
            }
            | {"seconds": seconds, "cpu_seconds": cpu_seconds}
            for one, operations, seconds, cpu_seconds in zip(
                recorder.training,
                flops,
                recorder.seconds["fine-tuning step"],
                recorder.cpu_seconds["fine-tuning step"],
                strict=True,
            )
        ],
    }


def print_table(result: Mapping[str, Any]) -> None:
    """Print the result as one Markdown table, the extrapolation last."""
    seconds, cpu = result["median_seconds"], result["median_cpu_seconds"]
    rates, whole, apart = result["gflops_per_second"], result["whole_run"], result["stages_measured_apart"]
    gigabytes = {name: f"{value / 1e9:.1f} GB" for name, value in result["peak_bytes"].items()}
    rows = [
        ("device; threads; weights; autocast", "{device}; {threads}; {weights}; {autocast}".format(**result)),
        ("parameters of the model, without head", f"{result['model_params']:,}"),
        (
            f"parameters of the adapter, {result['modules']} modules, r_max {result['r_max']}",
            f"{result['adapter_params']:,}",
        ),
        ("parameters of the head", f"{result['head_params']:,}"),
        (
            f"tokens of a batch of {result['batch_size']}: with padding; without",
            f"{result['tokens_per_batch']:.0f}; {result['real_tokens_per_batch']:.0f}",
        ),
        (
            "tokens of the largest batch, with padding",
            f"{result['tokens_of_largest_batch']:,}",
        ),
        (
            "tokens of a batch of a whole epoch, with padding: mean; largest",
            f"{result['tokens_per_batch_of_epoch']:.0f}; {result['tokens_of_largest_batch_of_epoch']:,}",
        ),
        ("mean rank", f"{result['mean_rank']:.1f}"),
        (
            "first decision, with a warm-up of the diffusion if the preset has one",
            f"{result['first_decision_seconds']:.2f} s",
        ),
    ]
    for name, value in seconds.items():
        note = ", measured apart" if apart and name.startswith(("decision", "stage")) else ""
        rows.append((f"{name}{note}, median", f"{value:.3g} s; CPU time {cpu[name]:.3g} s"))
    rows += [
        ("peak memory: set-up; fine-tuning; whole run", "; ".join(gigabytes.values())),
        ("operations of a fine-tuning step", f"{result['flops_per_step'] / 1e12:.3g} TFLOP"),
        ("rate by the clock; by CPU time", f"{rates['clock']:.1f}; {rates['cpu_time']:.1f} GFLOP/s"),
        (
            f"extrapolated: operations of {whole['steps']:,} steps and {whole['evaluations']} evaluations",
            f"{whole['flops'] / 1e15:.3g} PFLOP",
        ),
        (
            "extrapolated: hours on this device by the clock; by CPU time",
            f"{whole['hours']['clock']:.3g}; {whole['hours']['cpu_time']:.3g}",
        ),
    ]
    if whole["assumed_tflops"] is not None:
        title = f"extrapolated: hours at an assumed rate of {whole['assumed_tflops']:g} TFLOP/s, policy as here"
        rows.append((title, f"{whole['hours']['assumed_rate']:.3g}"))
    print("| quantity | value |\n|---|---|")
    for title, text in rows:
        print(f"| {title} | {text} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--steps", type=int, required=True, help="fine-tuning steps")
    parser.add_argument("--preset", choices=("paper", "paper-literal"), default="paper")
    parser.add_argument("--data", default="embedded", help="value of data.name: a known data set or a folder")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128, help="tokens kept of a sample")
    parser.add_argument("--r-max", type=int, default=64)
    parser.add_argument("--device", default="cpu", help="cpu, or a CUDA device such as cuda:0")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--weights", choices=("float32", "bfloat16"), default="float32", help="type of frozen weights")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--model-dir", type=Path, help="folder of the model, which is kept; an existing one is reused")
    parser.add_argument("--assume-tflops", type=float, help="sustained rate of another device, for the extrapolation")
    parser.add_argument("--json", type=Path, help="file of the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = arguments.model_dir or Path(work, "model")
        overrides = {
            "model.name": str(folder),
            "model.dtype": arguments.weights,
            "data.name": arguments.data,
            "data.max_length": arguments.max_length,
            "data.max_eval_samples": NUM_EVAL_SAMPLES,
            "data.num_eval": NUM_EVAL_SAMPLES,
            "adapter.r_max": arguments.r_max,
            "finetune.steps": arguments.steps,
            "finetune.batch_size": arguments.batch_size,
            "finetune.eval_every": arguments.steps,
            "finetune.precision": arguments.precision,
            "seed": arguments.seed,
            "device": arguments.device,
            "num_threads": arguments.threads,
            "tensorboard": False,
        }
        try:
            settings = load_settings(arguments.preset, overrides=overrides)
            data = find_task(settings.task).from_data(settings.data)[1]
            make_model(arguments.shape, data.texts, arguments.seed, arguments.weights, folder)
            recorder = Recorder(arguments.device)
            with recorder.watch():
                train(settings, Path(work, "run"))
            stages = recorder
            if arguments.steps < settings.policy.rollout_steps:
                assert recorder.context is not None
                stages = measure_stages(settings, recorder.context, arguments.device)
        except AirloraError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        result = summarise(settings, recorder, stages, arguments)
    print_table(result)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
