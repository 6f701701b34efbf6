import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import airlora, refused, tiny_flags


def test_train_prints_json_and_writes_the_files_of_a_run(
    tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    out = tmp_path / "run"
    flags = tiny_flags(tiny_model, tiny_data)
    result = airlora("train", "--out", out, "--steps", 4, "--seed", 3, "--preset", "quick", "--json", *flags)
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert {"run", "accuracy", "loss", "num_params", "steps"} <= value.keys()
    assert value["run"] == str(out)
    assert value["steps"] == 4
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter.safetensors",
        "checkpoint.pt",
        "metrics.jsonl",
        "policy.pt",
        "run.json",
        "settings.toml",
    ]


def test_train_reads_a_folder_of_data_in_place_of_two_files(
    tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    flags = tiny_flags(tiny_model, tiny_data)
    flags = flags[flags.index("--model") :]
    named = airlora("train", "--out", tmp_path / "named", "--steps", 4, "--data", tiny_data[0].parent, "--json", *flags)
    assert named.returncode == 0, named.stderr
    files = airlora("train", "--out", tmp_path / "files", "--steps", 4, "--json", *tiny_flags(tiny_model, tiny_data))
    one, other = json.loads(named.stdout), json.loads(files.stdout)
    assert {**one, "run": ""} == {**other, "run": ""}
    both = airlora("train", "--out", tmp_path / "x", "--data", "sst2", *tiny_flags(tiny_model, tiny_data))
    refused(both, "data.name = 'sst2'", "give either data.name (--data) or these two (--train, --eval)")
    assert not (tmp_path / "x").exists()


def test_evaluate_agrees_with_train_at_the_runs_rank_pattern(run: Path, tiny_data: tuple[Path, Path]) -> None:
    value = json.loads(airlora("evaluate", run, "--data", tiny_data[1], "--json").stdout)
    record = json.loads((run / "run.json").read_text())
    assert value.keys() == {"accuracy", "loss", "quality", "num_params", "num_samples"}
    assert value["accuracy"] == record["accuracy"]
    assert value["loss"] == pytest.approx(record["loss"], abs=1e-9)
    assert value["num_params"] == record["num_params"]
    assert json.loads(airlora("evaluate", run, "--json").stdout) == value


def test_evaluate_measures_other_rank_patterns(run: Path, tiny_data: tuple[Path, Path], tmp_path: Path) -> None:
    modules = json.loads(airlora("inspect", run, "--json").stdout)["modules"]
    size = sum(module["d_in"] + module["d_out"] + 1 for module in modules.values())
    at_two = json.loads(airlora("evaluate", run, "--data", tiny_data[1], "--rank", 2, "--json").stdout)
    assert at_two["num_params"] == 2 * size
    pattern = json.dumps(dict.fromkeys(modules, 2))
    literal = airlora("evaluate", run, "--data", tiny_data[1], "--rank-pattern", pattern, "--json")
    assert json.loads(literal.stdout) == at_two
    (tmp_path / "pattern.json").write_text(pattern)
    predictions = tmp_path / "p.jsonl"
    from_file = airlora(
        *("evaluate", run, "--data", tiny_data[1], "--rank-pattern", tmp_path / "pattern.json", "--json"),
        *("--predictions", predictions),
    )
    assert json.loads(from_file.stdout) == at_two
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    right = sum(max(range(2), key=row["logits"].__getitem__) == row["label"] for row in rows)
    assert right / len(rows) == at_two["accuracy"]


def test_inspect_shows_keys_and_a_table(run: Path) -> None:
    value = json.loads(airlora("inspect", run, "--json").stdout)
    assert {"rank_pattern", "modules", "policy", "model"} <= value.keys()
    assert list(value["rank_pattern"]) == list(value["modules"])
    shown = airlora("inspect", run).stdout
    assert "fc2" in shown
    assert value["policy"]["name"] in shown


def test_missing_files_and_folders_are_refused(tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]) -> None:
    out = tmp_path / "run"
    gone = (tmp_path / "gone.tsv", tiny_data[1])
    refused(airlora("train", "--out", out, *tiny_flags(tiny_model, gone)), "gone.tsv", "no such file")
    refused(airlora("train", "--out", out, *tiny_flags(Path("no/such/model"), tiny_data)), "no/such/model")
    refused(airlora("train", "--out", out, "--config", "gone.toml"), "gone.toml", "no such file")
    refused(airlora("evaluate", tmp_path / "nothing"), "nothing", "not a run of airlora")
    refused(airlora("inspect", tmp_path / "nothing"), "nothing")
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["empty"]),
        ("label\ttext\n", ["no "]),
        ("label\ttext\n" + "1\tgood film\n" * 40, ["one class"]),
        ("label\ttext\n" + "1\tgood\n-3\tbad\n" * 20, ["-3"]),
        ("label\n1\n0\n", ["text"]),
    ],
)
def test_invalid_training_files_are_refused(
    content: str, words: list[str], tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    bad = tmp_path / "bad.tsv"
    bad.write_text(content)
    result = airlora("train", "--out", tmp_path / "run", *tiny_flags(tiny_model, (bad, tiny_data[1])))
    refused(result, "bad.tsv")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_label_without_training_samples_is_refused(
    tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    bad = tmp_path / "dev.tsv"
    bad.write_text("label\ttext\n0\tbad\n2\tgood\n")
    refused(airlora("train", "--out", tmp_path / "run", *tiny_flags(tiny_model, (tiny_data[0], bad))), "dev.tsv", "2")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"channel__bandwidth_hz": [-5]}, ["channel.bandwidth_hz.0 = -5", "greater than 0"]),
        ({"channel__snr_db": [1e9]}, ["channel.snr_db.0", "less than or equal to 100"]),
        ({"adapter__r_max": 17}, ["17", "16"]),
        ({"adapter__target_modules": ["nonsense"]}, ["nonsense"]),
        ({"data__max_length": 65}, ["data.max_length = 65", "64"]),
        ({"device": "tpu9"}, ["device = 'tpu9'"]),
        ({"env__objective": "live", "policy__name": "greedy"}, ["env.objective", "greedy"]),
        ({"diffusion__backbone": "unet9"}, ["unet9", "residual_mlp"]),
        ({"diffusion__loss": "magic"}, ["magic", "literal"]),
        # These policies need a trained adapter; their settings are checked before training.
        ({"policy__name": "distilled", "diffusion__backbone": "unet9"}, ["unet9", "residual_mlp"]),
        ({"policy__name": "allocate", "allocate__forms": ["cubic"]}, ["cubic", "separable"]),
    ],
)
def test_invalid_settings_are_refused(
    setting: dict[str, object], words: list[str], tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    flags = tiny_flags(tiny_model, tiny_data, **setting)
    refused(airlora("train", "--out", tmp_path / "run", *flags), *words)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_explodes_keeps_the_checkpoint_before(
    tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    out = tmp_path / "run"
    flags = tiny_flags(
        tiny_model,
        tiny_data,
        finetune__learning_rate=1e38,
        finetune__warmup_fraction=0.5,
        checkpoint_every=1,
        env__objective="frozen",
        policy__name="constant",
    )
    result = airlora("train", "--out", out, "--steps", 40, *flags)
    refused(result, "fine-tuning step", "finetune.learning_rate")
    assert (out / "checkpoint.pt").exists()
    assert not (out / "run.json").exists()


def test_a_run_is_not_overwritten(run: Path, tiny_model: Path, tiny_data: tuple[Path, Path]) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    refused(airlora("train", "--out", run, *tiny_flags(tiny_model, tiny_data)), "already holds a run")
    refused(airlora("train", "--out", run, "--resume"), "finished")
    refused(airlora("train", "--out", run, "--resume", "--steps", 3), "--resume")
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_evaluate_refuses_invalid_rank_patterns(run: Path) -> None:
    refused(airlora("evaluate", run, "--rank", 5), "5", "0 to 4")
    refused(airlora("evaluate", run, "--rank", -1), "-1")
    refused(airlora("evaluate", run, "--rank", 1, "--rank-pattern", "{}"), "not both")
    refused(airlora("evaluate", run, "--rank-pattern", '{"x": 1}'), "'x'")
    refused(airlora("evaluate", run, "--rank-pattern", "{"), "JSON")
    refused(airlora("evaluate", run, "--rank-pattern", "gone.json"), "gone.json")


@pytest.mark.parametrize("name", ["adapter.safetensors", "run.json", "settings.toml"])
def test_damaged_files_of_a_run_are_refused(run: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    for content in (b"", b"foreign", *([] if name == "settings.toml" else [(run / name).read_bytes()[:-30]])):
        (copy / name).write_bytes(content)
        # Empty settings are the defaults, whose base model does not fit the adapter.
        refused(airlora("evaluate", copy), "base model" if (name, content) == ("settings.toml", b"") else name)


def test_a_run_of_another_base_model_is_refused(run: Path, tmp_path: Path, tiny_model: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_model.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    weights = load_file(model / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"] += torch.tensor(1e-3)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    copy = tmp_path / "run"
    copy.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    settings = copy / "settings.toml"
    settings.write_text(settings.read_text().replace(str(tiny_model), str(model)))
    refused(airlora("evaluate", copy), "made for the base model")


def test_a_full_disk_is_reported(tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]) -> None:
    # Writes beyond a limit on the file size fail like those on a full disk.
    out = tmp_path / "run"
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
        "from airlora.cli import main; sys.argv[0] = 'airlora'; main()"
    )
    flags = tiny_flags(tiny_model, tiny_data)
    result = subprocess.run(
        [sys.executable, "-c", code, "train", "--out", str(out), "--steps", "30", *flags],
        capture_output=True,
        text=True,
    )
    refused(result, "cannot write", "checkpoint.pt")
    assert not list(out.glob(".*tmp"))


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> tuple[Path, list[str], str]:
    """Return the folder of a run, its flags and its output."""
    out = tmp_path_factory.mktemp("uninterrupted") / "whole"
    flags = ["--steps", "100", "--json", *tiny_flags(tiny_model, tiny_data)]
    result = airlora("train", "--out", out, *flags)
    assert result.returncode == 0, result.stderr
    return out, flags, result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_interrupted_by_a_signal_resumes_to_the_same_result(
    number: signal.Signals, tmp_path: Path, uninterrupted: tuple[Path, list[str], str]
) -> None:
    whole, flags, output = uninterrupted
    broken = tmp_path / "broken"
    process = subprocess.Popen(
        [sys.executable, "-m", "airlora.cli", "train", "--out", str(broken), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = broken / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 25):
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert "the state is saved, resume with: airlora train --resume" in errors
    assert not (broken / "run.json").exists()
    resumed = airlora("train", "--out", broken, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout) | {"run": ""} == json.loads(output) | {"run": ""}
    for name in ("adapter.safetensors", "metrics.jsonl"):
        one, other = (whole / name).read_bytes(), (broken / name).read_bytes()
        assert one.replace(b"whole", b"") == other.replace(b"broken", b""), name


def test_policies_are_listed() -> None:
    from airlora.policy import policy_specs

    shown = airlora("policies")
    assert shown.returncode == 0, shown.stderr
    for name, spec in policy_specs().items():
        assert name in shown.stdout
        assert spec.summary in shown.stdout
    assert airlora("policies", "--list").stdout == shown.stdout
    value = json.loads(airlora("policies", "--list", "--json").stdout)
    assert value == [{"policy": name, "summary": spec.summary} for name, spec in policy_specs().items()]


def test_policies_are_benchmarked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A second process would import torch again.
    monkeypatch.setattr("airlora.tasks.available_threads", lambda: 1)
    flags = ["--bench", "--policy", "random", "--policy", "cmaes", "--evaluations", 500, "--seeds", 1]
    flags += ["--problem", "separable-36", "--out", tmp_path / "a bench"]
    result = airlora("policies", *flags, "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [(row["policy"], row["evaluations"]) for row in rows] == [("random", 0), ("cmaes", 500)]
    for row in rows:
        assert {"policy", "modules", "evaluations", "regret", "spread"} <= row.keys()
        assert (row["problem"], row["modules"], row["seeds"], row["spread"]) == ("separable-36", 36, 1, 0.0)
        assert row["regret"] > 0.0
    names = ["records.jsonl", "regret.svg", "report.html", "results.json"]
    assert sorted(path.name for path in (tmp_path / "a bench").iterdir()) == names
    assert f"--out &#39;{tmp_path}/a bench&#39;" in (tmp_path / "a bench" / "report.html").read_text()
    # The second call reads all records and prints the same regrets as a table.
    shown = airlora("policies", *flags)
    assert shown.returncode == 0, shown.stderr
    for row in rows:
        assert f"{row['regret']:.3f}" in shown.stdout
    assert "best is cmaes" in shown.stdout
    (tmp_path / "a bench" / "records.jsonl").write_text("{")
    refused(airlora("policies", *flags), "records.jsonl", "damaged")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--bench", "--policy", "magic"], ["policy.name = 'magic'", "allocate", "airllm"]),
        (["--bench", "--policy", "greedy"], ["policy.name = 'greedy'", "allocate"]),
        (["--bench", "--problem", "separable-7"], ["problem = 'separable-7'", "separable-36"]),
        (["--bench", "--evaluations", 10], ["evaluations = 10", "500 or more"]),
        (["--bench", "--evaluations", 0], ["evaluations = 0", "500 or more"]),
        (["--bench", "--seeds", 0], ["seeds = 0", "1 or more"]),
        (["--bench", "--preset", "slow"], ["preset = 'slow'", "paper-literal"]),
        (["--bench", "--run", "x", "--preset", "paper"], ["leave", "--preset"]),
        (["--preset", "paper"], ["--bench"]),
        (["--quick"], ["--bench"]),
        (["--policy", "ppo"], ["--bench"]),
        (["--problem", "separable-36"], ["--bench"]),
        (["--evaluations", 0], ["--bench"]),
        (["--seeds", 0], ["--bench"]),
    ],
)
def test_invalid_benchmarks_are_refused(flags: list[object], words: list[str], tmp_path: Path) -> None:
    refused(airlora("policies", "--out", tmp_path / "bench", *flags), *words)
    assert not (tmp_path / "bench").exists()
