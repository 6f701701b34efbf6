"""A language model from its training to a device, over the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from airlora.codec import decode_stream
from airlora.delivery import ReportStore, ServerPlan, make_app
from airlora.tasks import GenerateOptions, complete, prompt_of
from airlora.testing.local_server import serving
from airlora.text import Completion
from commands import airlora, refused

SETTINGS = {
    "data.max_length": 32,
    "adapter.r_max": 4,
    "adapter.scale": 2.0,
    "finetune.batch_size": 8,
    "finetune.precision": "float32",
    "finetune.learning_rate": 0.05,
    "finetune.eval_every": 100,
    "env.frozen_batch_size": 6,
    "env.frozen_batches": 3,
    "num_threads": 1,
    "tensorboard": "false",
}
ON_DEVICE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from airlora.delivery import attach
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
attached = attach(model, sys.argv[2])
ids = tokenizer(sys.argv[3], return_tensors="pt").input_ids
found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
print(attached.version, tokenizer.decode(found[0, ids.shape[1]:], skip_special_tokens=True), sep="|")
"""


def train(out: Path, model: Path, data: tuple[Path, Path], *flags: object, **changes: object) -> "object":
    values = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    settings = [flag for key, value in values.items() for flag in ("--set", f"{key}={value}")]
    files = ("--train", data[0], "--eval", data[1], "--model", model)
    return airlora("train", "--task", "causal-lm", "--out", out, *files, "--steps", 60, *settings, *flags)


@pytest.fixture(scope="module")
def language_run(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path, tiny_prompts: tuple[Path, Path]) -> Path:
    """A finished run of a language model on prompts with completions."""
    out = tmp_path_factory.mktemp("runs") / "language"
    result = train(out, tiny_decoder, tiny_prompts)
    assert result.returncode == 0, result.stderr
    return out


def completion(*arguments: object) -> dict[str, str]:
    result = airlora("generate", *arguments, "--max-new-tokens", 8, "--json")
    assert result.returncode == 0, result.stderr
    (found,) = json.loads(result.stdout)["completions"]
    return found


def test_the_run_learns_and_states_the_metrics_of_the_task(
    language_run: Path, tiny_decoder: Path, tiny_prompts: tuple[Path, Path]
) -> None:
    record = json.loads((language_run / "run.json").read_text())
    assert (record["task"], record["sample_format"]) == ("causal-lm", "prompt-completion")
    whole = json.loads(airlora("evaluate", language_run, "--rank", 4, "--json").stdout)
    base = json.loads(airlora("evaluate", language_run, "--rank", 0, "--json").stdout)
    assert whole["loss"] < base["loss"] - 0.5
    assert whole["quality"] == whole["token_accuracy"] > base["token_accuracy"]
    # The loss is that of transformers.
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_decoder), AutoTokenizer.from_pretrained(tiny_decoder)
    losses, counts = 0.0, 0
    for line in tiny_prompts[1].read_text().splitlines():
        sample = json.loads(line)
        prompt = len(tokenizer(sample["prompt"]).input_ids)
        ids = torch.tensor([[*tokenizer(sample["prompt"] + sample["completion"]).input_ids, tokenizer.eos_token_id]])
        labels = torch.where(torch.arange(ids.shape[1]) < prompt, -100, ids)
        count = ids.shape[1] - prompt
        losses += count * model(ids, labels=labels).loss.item()
        counts += count
    assert base["loss"] == pytest.approx(losses / counts, rel=1e-5)


def test_the_adapter_is_packed_and_planned_like_that_of_a_classifier(
    language_run: Path, tiny_decoder: Path, tiny_prompts: tuple[Path, Path], tmp_path: Path
) -> None:
    stream = tmp_path / "adapter.airs"
    result = airlora("pack", language_run, stream, "--size", "3kB", "--qat-steps", 4)
    assert result.returncode == 0, result.stderr
    assert stream.stat().st_size <= 3000
    assert decode_stream(stream.read_bytes(), strict=True).tensors == {}
    flags = ("--data", tiny_prompts[1], "--model", tiny_decoder, "--json")
    found = json.loads(airlora("evaluate", stream, *flags).stdout)
    base = json.loads(airlora("evaluate", language_run, "--rank", 0, "--json").stdout)
    assert found["loss"] < base["loss"] - 0.3
    result = airlora("plan", language_run, "--snr-db", 0, "--bandwidth-hz", 2e4, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["policy"] == "stream"


def test_a_size_needs_no_head(tiny_decoder: Path, tiny_prompts: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text('task = "causal-lm"\n')
    for size in (1500, 4000):
        settings = [flag for key, value in SETTINGS.items() for flag in ("--set", f"{key}={value}")]
        files = ("--train", tiny_prompts[0], "--eval", tiny_prompts[1], "--model", tiny_decoder)
        more = ("--config", tmp_path / "task.toml", "--size", size, "--steps", 10)
        result = airlora("train", "--out", tmp_path / f"run{size}", *files, *settings, *more)
        assert result.returncode == 0, result.stderr
        assert (tmp_path / f"run{size}" / "stream.airs").stat().st_size <= size


def test_a_device_generates_what_the_sender_generates(language_run: Path, tiny_decoder: Path, tmp_path: Path) -> None:
    site, device = tmp_path / "site", tmp_path / "device"
    assert airlora("repo", "init", site).returncode == 0
    result = airlora("publish", language_run, site)
    assert result.returncode == 0, result.stderr
    with serving(make_app(ServerPlan(site, ReportStore(":memory:")))) as url:
        root = ("--root", site / "metadata" / "1.root.json")
        result = airlora("edge", "run", url, "--state", device, *root, "--once")
    assert result.returncode == 0, result.stderr
    (stream,) = (site / "streams").iterdir()
    prompt = "film great food :"
    expected = completion(stream, "--model", tiny_decoder, "--prompt", prompt)
    assert expected["adapted"] != expected["base"]
    words = [sys.executable, "-c", ON_DEVICE, str(tiny_decoder), str(device), prompt]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().split("\n")[-1] == f"1|{expected['adapted']}"


def test_stock_peft_loads_the_export(language_run: Path, tiny_decoder: Path, tmp_path: Path) -> None:
    assert airlora("export", language_run, tmp_path / "peft", "--for", "peft").returncode == 0
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "peft").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    ids = tokenizer("film great food :", return_tensors="pt").input_ids
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    expected = completion(language_run, "--prompt", "film great food :")["adapted"]
    assert tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True) == expected


def test_the_defaults_of_a_model_do_not_change_the_most_probable_tokens(tiny_decoder: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_decoder), AutoTokenizer.from_pretrained(tiny_decoder)
    prompt = prompt_of(Completion("film great food :", ""), tokenizer)
    plain = complete(model, tokenizer, prompt, GenerateOptions(12), torch.device("cpu"))
    model.generation_config.update(do_sample=True, repetition_penalty=9.0, top_k=3)
    assert complete(model, tokenizer, prompt, GenerateOptions(12), torch.device("cpu")) == plain
    assert model.generation_config.repetition_penalty == 9.0


def test_references_of_a_prompt_are_collected_from_all_samples(
    language_run: Path, tiny_prompts: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [("film :", " good"), ("plot :", " bad"), ("film :", " fine")]
    lines = [json.dumps({"prompt": prompt, "completion": text}) for prompt, text in rows]
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    assert completion(language_run, "--data", tmp_path / "data.jsonl", "--num", 1)["references"] == [" good", " fine"]
    refused(airlora("generate", language_run, "--prompt", "film :", "--score"), "no references")
    refused(airlora("generate", language_run, "--prompt", "film :", "--model", "x"), "leave --model out")


def test_conversations_are_trained_and_completed(tiny_decoder: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "film :"}, {"role": "assistant", "content": "the film was great ."}]
    files = (tmp_path / "train.jsonl", tmp_path / "dev.jsonl")
    for file in files:
        file.write_text((json.dumps({"messages": turns}) + "\n") * 20)
    result = train(tmp_path / "run", tiny_decoder, files)
    assert result.returncode == 0, result.stderr
    found = completion(tmp_path / "run", "--data", files[1], "--num", 1)
    assert found["references"] == ["the film was great ."] * 20
    assert found["adapted"].split() == ["the", "film", "was", "great", "."]
    assert completion(tmp_path / "run", "--prompt", "film :")["adapted"] == found["adapted"]


def test_files_for_a_language_model_are_not_taken_for_labels(
    tiny_model: Path, tiny_prompts: tuple[Path, Path], tmp_path: Path, run: Path
) -> None:
    files = ("--train", tiny_prompts[0], "--eval", tiny_prompts[1], "--model", tiny_model)
    refused(airlora("train", "--out", tmp_path / "run", *files), "column 'text' is missing", "--task causal-lm")
    columns = ("--set", "data.text_column=prompt", "--set", "data.label_column=completion")
    refused(airlora("train", "--out", tmp_path / "run", *files, *columns), "classes in 240 samples", "--task causal-lm")
    refused(airlora("train", "--out", tmp_path / "run", "--task", "causal-lm"), "the embedded corpus")
    refused(airlora("train", "--out", tmp_path / "run", "--task", "poetry"), "task = 'poetry'", "causal-lm")
    refused(airlora("generate", run, "--prompt", "film"), "has the task classification")
    refused(airlora("generate", run, "--prompt", " "), "prompt = ''", "not empty")
    assert not (tmp_path / "run").exists()
