import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from airlora.reproduce import plan as plans
from airlora.reproduce.kinds import KINDS
from airlora.reproduce.methods import METHODS
from commands import TINY, airlora, refused

TINY_SCALE = {
    **{key: value for key, value in TINY.items() if key not in ("policy.name", "channel.bandwidth_hz", "num_threads")},
    "finetune.steps": 6,
    "finetune.eval_every": 6,
    "ppo.hidden_size": 16,
    "diffusion.hidden_size": 16,
    "diffusion.unet_channels": 8,
    "diffusion.unet_depth": 2,
    "diffusion.warmup_updates": 2,
    "diffusion.num_decision_samples": 1,
    "policy.rollout_steps": 4,
    "env.decision_steps": 2,
}


@pytest.fixture(scope="module")
def folder(tiny_data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tiny data under their usual names."""
    folder = tmp_path_factory.mktemp("data")
    for path in tiny_data:
        (folder / path.name).write_text(path.read_text())
    return folder


@pytest.fixture(autouse=True)
def _tiny_scale() -> Iterator[None]:
    """Make the scale `quick` one of seconds, in this process."""
    with pytest.MonkeyPatch.context() as patched:
        tiny = replace(plans.SCALES["quick"], overrides=TINY_SCALE, evaluations=8)
        patched.setattr(plans, "SCALES", {**plans.SCALES, "quick": tiny})
        patched.setattr("airlora.training.processes.available_threads", lambda: 1)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduced")


def flags(model: Path, data: Path, out: Path) -> tuple[object, ...]:
    return ("--model", model, "--data", data, "--out", out)


def test_a_table_is_reproduced_and_the_same_command_runs_no_trial_again(
    tiny_model: Path, folder: Path, out: Path
) -> None:
    command = ("reproduce", "table3", *flags(tiny_model, folder, out))
    listed = airlora(*command, "--dry-run", "--json")
    assert listed.returncode == 0, listed.stderr
    before = json.loads(listed.stdout)
    assert sum(line["num_done"] for line in before["trials"]) == 0
    assert before["hours"] > 0
    first = airlora(*command)
    assert first.returncode == 0, first.stderr
    assert "not decidable here" in first.stdout
    # AdaLoRA gets the parameters of the paper's method, which are known in the course of the run.
    value = json.loads((out / "table3.json").read_text())
    sent = {row["method"]: row["num_params"] for row in value["rows"]}
    assert 0 < sent["AdaLoRA"] <= sent["PPO+DDIM/MLP"] < sent["AdaLoRA, r_max"]
    assert {row["method"] for row in value["rows"]} == set(METHODS)
    assert all(0.0 <= row["accuracy"] <= 1.0 and row["loss"] > 0.0 for row in value["rows"])
    assert all({"claim", "paper", "ours", "interval", "verdict"} <= verdict.keys() for verdict in value["verdicts"])
    assert value["settings"]["data"] == str(folder.resolve())
    for name in ("table3.csv", "table3.md", "table3.tex", "results.jsonl"):
        assert "PPO+DDIM/MLP" in (out / name).read_text(), name
    assert "Table III" in (out / "report.html").read_text()
    trials = {path: path.stat().st_mtime_ns for path in (out / "trials").iterdir()}
    again = airlora(*command, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["results"]["table3"]["rows"] == value["rows"]
    assert {path: path.stat().st_mtime_ns for path in (out / "trials").iterdir()} == trials
    after = json.loads(airlora(*command, "--dry-run", "--json").stdout)
    assert all(line["num_done"] == line["num_trials"] for line in after["trials"])


def test_a_figure_needs_no_trial_that_a_table_has_run(tiny_model: Path, folder: Path, out: Path) -> None:
    trials = set((out / "trials").iterdir())
    result = airlora("reproduce", "fig3", *flags(tiny_model, folder, out))
    assert result.returncode == 0, result.stderr
    assert set((out / "trials").iterdir()) == trials
    for suffix in ("svg", "pdf", "csv", "json"):
        assert (out / f"fig3.{suffix}").stat().st_size > 0
    # The report keeps the table that the folder holds.
    page = (out / "report.html").read_text()
    assert "Table III" in page
    assert "Figure 3" in page


def test_the_summary_lists_the_verdicts_of_a_folder(out: Path, tmp_path: Path) -> None:
    shown = airlora("reproduce", "--summary", "--out", out)
    assert shown.returncode == 0, shown.stderr
    assert "PPO then DDIM" in shown.stdout
    assert "quick, repaired, seeds 1: table3, fig3" in shown.stdout
    value = json.loads(airlora("reproduce", "--summary", "--out", out, "--json").stdout)
    assert value.keys() == {"table3", "fig3"}
    assert json.loads(airlora("reproduce", "fig3", "--summary", "--out", out, "--json").stdout).keys() == {"fig3"}
    refused(airlora("reproduce", "fig8", "--summary", "--out", out), str(out), "airlora reproduce fig8")
    refused(airlora("reproduce", "--summary", "--out", tmp_path), str(tmp_path), "airlora reproduce NAME")
    damaged = json.loads((out / "table3.json").read_text())
    damaged["verdicts"][0]["ours"] = "much"
    (tmp_path / "table3.json").write_text(json.dumps(damaged))
    refused(airlora("reproduce", "--summary", "--out", tmp_path), "table3.json: damaged", "airlora reproduce table3")


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(
    tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    plan = plans.Plan.make("quick", "repaired", data=str(folder), model=str(tiny_model))
    (adapter,) = plan.adapter_trials([plan.trial("PPO", 42)])
    first = KINDS["adapter"](adapter.options, 42, tmp_path, lambda: None)
    (run,) = (tmp_path / "adapters").glob("*/")
    assert not (run / "checkpoint.pt").exists()
    # The files that a process leaves that is killed before its first checkpoint.
    for path in run.iterdir():
        if path.name != "settings.toml":
            path.unlink()
    assert KINDS["adapter"](adapter.options, 42, tmp_path, lambda: None) == first


def test_a_learning_rate_that_diverges_is_a_result(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    plan = plans.Plan.make("quick", "repaired", data=str(folder), model=str(tiny_model))
    for options in ({"method": "lora", "snr_db": 5.0, "budget": "link"}, {}):
        changes = {"finetune.learning_rate": 1e30, "finetune.lora_learning_rate": 1e30, "finetune.max_grad_norm": 1e9}
        changes |= {"policy.name": "random", "env.objective": "live"}
        found = KINDS["rate"](plan.options(changes, learns=False) | options, 42, tmp_path, lambda: None)
        assert found["loss"] is None
        assert "finite" in found["error"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("table9",), ("table9", "table3")),
        ((), ("NAME", "all")),
        (("table3", "--scale", "huge"), ("huge", "quick")),
        (("table3", "--variant", "exact"), ("exact", "literal")),
        (("table3", "--seeds", 0), ("seeds = 0",)),
        (("table3", "--seeds", 10**9, "--dry-run"), ("seeds = 1000000000", "1 to 1000")),
        (("table3", "--data", "nowhere"), ("nowhere",)),
        (("table3", "--executor", "slurm"), ("slurm", "ray")),
        (("table3", "--address", "here:1"), ("here:1", "ray")),
    ],
)
def test_bad_input_is_refused_before_a_trial_runs(
    tmp_path: Path, tiny_model: Path, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    refused(airlora("reproduce", *arguments, "--model", tiny_model, "--out", tmp_path / "out"), *words)
    assert not list(tmp_path.glob("out/trials/*"))
