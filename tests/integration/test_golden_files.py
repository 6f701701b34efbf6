import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airlora.codec import DecodedStream, decode_stream
from airlora.delivery import AgentConfig, KeyFolder, StateFolder, open_repository, verify_repository, visit
from airlora.identity import is_same_base
from airlora.observation import Observation
from airlora.policy import PolicyProblem, RankPolicy, load_policy
from airlora.policy.factory import policy_classes
from airlora.ranks import RankPattern
from airlora.training import RunFolder, open_run, read_metrics, train
from delivery import URL, FakeTransport

# Each folder holds a make.py that wrote its files.
GOLDEN = Path(__file__).parents[1] / "golden"
POLICY_FILES = sorted(path.stem for path in (GOLDEN / "policy").glob("*.pt"))


def expected(folder: str) -> Any:
    return json.loads((GOLDEN / folder / "expected.json").read_text())


def assert_holds(found: Any, wanted: Any, path: str = "") -> None:
    """Assert that every stored value is found again; later versions may add keys."""
    if isinstance(wanted, Mapping):
        assert wanted.keys() <= found.keys(), path
        for key, value in wanted.items():
            assert_holds(found[key], value, f"{path}.{key}")
    elif path.endswith("fingerprint"):
        assert is_same_base(found, wanted), path
    else:
        assert found == (pytest.approx(wanted, rel=1e-9) if isinstance(wanted, float) else wanted), path


def decide(policy: RankPolicy, observations: list[dict[str, Any]]) -> list[list[int]]:
    return [policy.decide(Observation(**o | {"ranks": np.array(o["ranks"], np.int64)})).tolist() for o in observations]


def assert_decodes_to(decoded: DecodedStream, name: str) -> None:
    found = {f"tensor.{key}": value for key, value in decoded.tensors.items()}
    for key, (U, V) in decoded.modules.items():
        found |= {f"U.{key}": U, f"V.{key}": V}
    with np.load(GOLDEN / "codec" / f"{name}.npz", allow_pickle=False) as arrays:
        assert set(found) == set(arrays.files)
        assert all(found[key].tobytes() == arrays[key].tobytes() for key in arrays.files)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy of the golden runs as the working directory, since their paths are relative."""
    shutil.copytree(GOLDEN / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def test_a_golden_run_opens_with_its_settings_and_record(runs: Path) -> None:
    wanted, folder = expected("run"), RunFolder(runs / "finished")
    assert_holds(folder.settings().model_dump(mode="json"), wanted["settings"])
    assert_holds(folder.record().to_dict(), wanted["record"])
    kinds = [line["kind"] for line in read_metrics(folder.path)]
    assert {kind: kinds.count(kind) for kind in kinds} == wanted["num_metrics"]
    assert_holds(RunFolder(runs / "interrupted").settings().model_dump(mode="json"), wanted["settings"])


def test_a_golden_run_has_the_same_adapter_and_predictions(runs: Path) -> None:
    run = open_run("finished")
    found = {f"head.{name}": tensor for name, tensor in run.adapted.head_state().items()}
    for name, update in run.adapted.updates.items():
        found |= {f"update.{name}.{key}": tensor for key, tensor in update.state_dict().items()}
    data = run.task.read(run.settings.data)
    full = RankPattern.constant(run.record.shapes, run.settings.adapter.r_max)
    with np.load("expected.npz", allow_pickle=False) as arrays:
        assert {*found, "logits", "logits_at_full_rank"} == set(arrays.files)
        for name, tensor in found.items():
            np.testing.assert_array_equal(tensor.numpy(), arrays[name], err_msg=name)
        np.testing.assert_allclose(run.predict(data).logits, arrays["logits"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(run.predict(data, full).logits, arrays["logits_at_full_rank"], rtol=0, atol=1e-5)
        assert np.abs(arrays["logits"] - arrays["logits_at_full_rank"]).max() > 1e-3


def test_the_policy_of_a_golden_run_decides_the_same_ranks(runs: Path) -> None:
    wanted = expected("run")
    policy = load_policy(RunFolder("finished").policy_path)
    assert decide(policy, wanted["observations"]) == wanted["decisions"]


@pytest.mark.parametrize("phase", ["finetune", "learn"])
def test_a_golden_checkpoint_resumes_to_the_same_result(runs: Path, phase: str) -> None:
    folder = RunFolder("interrupted" if phase == "finetune" else "finished")
    if phase == "learn":
        for path in (folder.record_path, folder.adapter_path, folder.policy_path):
            path.unlink()
    record, wanted = train(folder.settings(), folder.path, resume=True).to_dict(), expected("run")
    assert record.pop("loss") == pytest.approx(wanted["record"].pop("loss"), abs=1e-4)
    assert_holds(record, wanted["record"])
    kinds = [line["kind"] for line in read_metrics(folder.path)]
    assert {kind: kinds.count(kind) for kind in kinds} == wanted["num_metrics"]


def test_the_classes_of_all_golden_policies_are_known() -> None:
    assert len(POLICY_FILES) == 10
    assert set(POLICY_FILES) <= set(policy_classes())


@pytest.mark.parametrize("name", POLICY_FILES)
def test_a_golden_policy_decides_the_same_ranks(name: str) -> None:
    wanted = expected("policy")
    policy = load_policy(GOLDEN / "policy" / f"{name}.pt", PolicyProblem.from_dict(wanted["problem"]))
    assert policy.name == name
    assert decide(policy, wanted["observations"]) == wanted["decisions"][name]


def test_a_golden_repository_verifies_and_its_streams_decode(tmp_path: Path) -> None:
    folder = GOLDEN / "release" / "repo"
    report = verify_repository(open_repository(folder, KeyFolder(tmp_path / "keys", folder)))
    assert report.warnings == []
    manifests = {tenant or "": manifest for tenant, manifest in report.manifests.items()}
    found = {tenant: json.loads(manifest.to_bytes()) for tenant, manifest in manifests.items()}
    assert_holds(found, expected("release")["manifests"])
    streams = {tenant: (folder / manifest.stream.path).read_bytes() for tenant, manifest in manifests.items()}
    assert decode_stream(streams[""], strict=True).is_complete
    assert_decodes_to(decode_stream(streams["acme"], strict=True), "half")


def test_a_golden_device_state_reads_and_continues_its_download(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "release" / "state", tmp_path / "state")
    device, wanted = StateFolder(tmp_path / "state"), expected("release")
    assert_holds(device.load().model_dump(mode="json"), wanted["state"])
    assert_decodes_to(device.read_slot("a")[1], "small")
    assert_decodes_to(device.read_slot("b")[1], "half")
    # No root is given: the device trusts the metadata in its state.
    found = visit(device, AgentConfig(URL), FakeTransport(GOLDEN / "release" / "repo"), seed=0)
    assert found.error is None
    assert (found.version, found.complete, found.slot) == (3, True, "a")
    assert found.bytes_reused == wanted["num_part_bytes"]
    assert found.bytes_fetched == wanted["manifests"][""]["stream"]["total_bytes"] - wanted["num_part_bytes"]
