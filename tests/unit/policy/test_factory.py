import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from airlora.errors import PolicyError
from airlora.observation import Observation, ObservationSpec
from airlora.policy import (
    POLICIES,
    Buffer,
    DiffusionSettings,
    EvaPolicy,
    GreedyPolicy,
    PolicyProblem,
    PPOSettings,
    RankPolicy,
    TablePolicy,
    load_policy,
    make_policy,
    save_policy,
)
from airlora.ranks import RankPattern

Observe = Callable[..., Observation]

PPO = PPOSettings(hidden_size=8)
# A short warm-up: what it reaches is tested elsewhere.
DIFFUSION = DiffusionSettings(
    hidden_size=8, num_train_timesteps=50, beta_end=0.2, num_inference_steps=3, warmup_updates=10
)


def make(name: str, problem: PolicyProblem) -> RankPolicy:
    if name == "greedy":
        return GreedyPolicy(problem, np.arange(16, dtype=np.float64).reshape(4, 4))
    if name == "eva":
        return EvaPolicy(problem, np.arange(16, 0, -1).reshape(4, 4) / 200)
    if name == "table":
        return TablePolicy(problem, [RankPattern.from_ranks("abcd", [1, 2, 0, 1])])
    return make_policy(name, problem, seed=3, ppo=PPO, diffusion=DIFFUSION, constant_rank=2)


@pytest.fixture
def saved(problem: PolicyProblem, tmp_path: Path) -> Path:
    path = tmp_path / "policy.airlora"
    save_policy(make("ppo", problem), path)
    return path


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_comes_back(name: str, problem: PolicyProblem, observe: Observe, tmp_path: Path) -> None:
    policy = make(name, problem)
    path = tmp_path / "policy.airlora"
    save_policy(policy, path)
    again = load_policy(path, problem)
    assert type(again) is type(policy)
    assert again.problem == problem
    for _ in range(3):
        ranks = policy.decide(observe())
        np.testing.assert_array_equal(again.decide(observe()), ranks)
        assert ranks.dtype == np.int64
        assert ranks.shape == (4,)
        assert ((ranks >= 0) & (ranks <= problem.r_max)).all()


@pytest.mark.parametrize("name", ["airllm", "ppo", "ddim", "cmaes", "allocate"])
def test_a_learner_comes_back_with_what_it_learnt(
    name: str, problem: PolicyProblem, observe: Observe, explored: Callable[..., Buffer], tmp_path: Path
) -> None:
    policy = make(name, problem)
    for _, run in policy.stages(explored(policy, 16), 16):  # type: ignore[attr-defined]
        run()
    save_policy(policy, tmp_path / "p")
    again = load_policy(tmp_path / "p")
    for _ in range(3):
        one, other = policy.explore(observe()), again.explore(observe())  # type: ignore[attr-defined]
        np.testing.assert_array_equal(one.ranks, other.ranks)
        assert one.value == other.value


def test_refuses_another_model_and_another_r_max(saved: Path) -> None:
    other_model = PolicyProblem(("a", "b"), (10, 10), ObservationSpec(2, 4))
    with pytest.raises(PolicyError, match="another model"):
        load_policy(saved, other_model)
    other_rank = PolicyProblem(("a", "b", "c", "d"), (10, 10, 30, 30), ObservationSpec(4, 8))
    with pytest.raises(PolicyError, match="r_max = 4: it cannot decide for r_max = 8"):
        load_policy(saved, other_rank)


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no such file"):
        load_policy(tmp_path / "none")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_refuses_a_cut_file(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    with pytest.raises(PolicyError, match="damaged|not written by airlora|version"):
        load_policy(saved)


def test_refuses_a_file_with_a_flipped_weight(problem: PolicyProblem, saved: Path) -> None:
    weights = make("ppo", problem).state_dict()["coarse"]["network"]["actor.0.weight"].numpy().tobytes()
    data = bytearray(saved.read_bytes())
    place = bytes(data).index(weights) + len(weights) // 2
    data[place] ^= 0x40
    saved.write_bytes(bytes(data))
    with pytest.raises(PolicyError, match="damaged"):
        load_policy(saved)


def test_refuses_what_is_no_policy(saved: Path) -> None:
    torch.save({"weights": 1}, saved)
    with pytest.raises(PolicyError, match="not written by airlora"):
        load_policy(saved)
    saved.write_text("airlora-policyholder\n")
    with pytest.raises(PolicyError, match="not written by airlora"):
        load_policy(saved)


def test_refuses_another_version(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes().replace(b"airlora-policy 3 ", b"airlora-policy 99 ", 1))
    with pytest.raises(PolicyError, match="'99': allowed is 3"):
        load_policy(saved)


def forge(path: Path, value: object) -> None:
    """Write a file of the right shape and digest."""
    content = io.BytesIO()
    torch.save(value, content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    path.write_bytes(f"airlora-policy 3 {digest}\n".encode() + content.getvalue())


@pytest.mark.parametrize("missing", ["problem", "arguments", "state", "name"])
def test_refuses_a_file_that_lacks_a_part(saved: Path, missing: str) -> None:
    value = torch.load(io.BytesIO(saved.read_bytes().partition(b"\n")[2]), weights_only=True)
    del value[missing]
    forge(saved, value)
    with pytest.raises(PolicyError, match="damaged"):
        load_policy(saved)


def test_runs_no_code_in_a_file(saved: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "touched",)  # type: ignore[return-value]

    forge(saved, {"name": Trap()})
    with pytest.raises(PolicyError, match="damaged or not a policy"):
        load_policy(saved)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["airllm", "ppo", "ddim", "cmaes", "allocate", "constant", "random"])
def test_a_policy_is_made_by_its_name(name: str, problem: PolicyProblem) -> None:
    policy = make_policy(name, problem, seed=3, ppo=PPO, diffusion=DIFFUSION)
    assert type(policy) is POLICIES[name]
    assert policy.problem is problem


def test_names_what_can_be_made(problem: PolicyProblem) -> None:
    with pytest.raises(PolicyError, match="policy.name = 'oracle': allowed is one of allocate, distilled, "):
        make_policy("oracle", problem, seed=0)
