"""Learners learn: on a small problem whose optimum is known, each gets well past the best constant rank."""

import itertools

import numpy as np
import pytest
import torch

from airlora.observation import IntArray, Observation, ObservationSpec
from airlora.policy import (
    AllocatePolicy,
    AllocateSettings,
    Buffer,
    CmaPolicy,
    CmaSettings,
    ConstantPolicy,
    DiffusionPolicy,
    DiffusionSettings,
    HierarchicalPolicy,
    Learner,
    PolicyProblem,
    PPOPolicy,
    PPOSettings,
    RankPolicy,
    Transition,
)
from airlora.training import load_settings

NUM_MODULES, R_MAX, EPISODE_STEPS, ROLLOUT_STEPS = 6, 4, 16, 64
SNRS_DB = (-5.0, 5.0, 15.0)
BUDGET_SHARES = (0.15, 0.4, 0.8)
COST_WEIGHT = 0.3

DIFFUSION = DiffusionSettings(num_inference_steps=10, learning_rate=1e-4, temperature=0.3, buffer_size=512)


class Task:
    """Eq. 10 with concave utilities that differ from module to module, and three links.

    The price of a component falls as the link's budget grows, so that each link has another optimum.
    """

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        worth = generator.lognormal(0.0, 1.0, NUM_MODULES)
        decay = generator.uniform(0.7, 3.0, NUM_MODULES)
        ranks = np.arange(R_MAX + 1)
        self.utility = (worth / worth.sum())[:, None] * (1.0 - np.exp(-ranks / decay[:, None]))
        costs = tuple(int(cost) for cost in generator.choice([100, 250], NUM_MODULES))
        self.budgets = {snr: int(share * sum(costs) * R_MAX) for snr, share in zip(SNRS_DB, BUDGET_SHARES, strict=True)}
        names = tuple(f"module.{index}" for index in range(NUM_MODULES))
        self.problem = PolicyProblem(names, costs, ObservationSpec(NUM_MODULES, R_MAX), COST_WEIGHT)
        self.generator = generator

    def observe(self, snr_db: float, ranks: IntArray) -> Observation:
        return Observation(snr_db, 1e6, 2.0, 0.1, ranks, self.budgets[snr_db])

    def loss(self, ranks: IntArray) -> float:
        return 1.0 - float(self.utility[np.arange(NUM_MODULES), ranks].sum())

    def reward(self, snr_db: float, ranks: IntArray) -> float:
        return -self.loss(ranks) - COST_WEIGHT * self.problem.num_params(ranks) / self.budgets[snr_db]

    def optimum(self, snr_db: float) -> IntArray:
        """Return the best rank of each module: the reward is a sum over the modules, so each is chosen alone."""
        prices = COST_WEIGHT * np.outer(self.problem.params_per_rank, np.arange(R_MAX + 1)) / self.budgets[snr_db]
        return np.argmax(self.utility - prices, axis=1)

    def regret(self, policy: RankPolicy) -> float:
        """Return the mean over the links: 0 is the optimum, 1 the best constant rank of each link."""
        regrets = []
        for snr_db in SNRS_DB:
            best = self.reward(snr_db, self.optimum(snr_db))
            constant = max(self.reward(snr_db, np.full(NUM_MODULES, rank)) for rank in range(R_MAX + 1))
            reached = self.reward(snr_db, policy.decide(self.observe(snr_db, np.ones(NUM_MODULES, np.int64))))
            regrets.append((best - reached) / (best - constant))
        return float(np.mean(regrets))

    def teach(self, learner: Learner, steps: int) -> None:
        """Run Algorithm 1; the next link does not depend on the action."""
        spec, buffer = self.problem.spec, Buffer(4096)
        start = np.ones(NUM_MODULES, np.int64)
        observation = self.observe(self.generator.choice(SNRS_DB), start)
        for step in range(1, steps + 1):
            decision = learner.explore(observation)
            following = self.observe(self.generator.choice(SNRS_DB), decision.ranks)
            truncated = step % EPISODE_STEPS == 0
            buffer.add(
                Transition(
                    observation=observation,
                    vector=spec.to_vector(observation),
                    ranks=decision.ranks,
                    reward=self.reward(observation.snr_db, decision.ranks),
                    next_vector=spec.to_vector(following),
                    terminated=False,
                    truncated=truncated,
                    loss=self.loss(decision.ranks),
                    a_out=decision.a_out,
                    log_prob=decision.log_prob,
                    value=decision.value,
                    x0=decision.x0,
                    chain=decision.chain,
                )
            )
            observation = self.observe(following.snr_db, start) if truncated else following
            if step % ROLLOUT_STEPS == 0:
                for _, stage in learner.stages(buffer, ROLLOUT_STEPS):
                    stage()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small networks are faster on one thread, and come out the same on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def task() -> Task:
    return Task(seed=1)


def test_the_measure_is_one_at_the_best_constant(task: Task) -> None:
    regrets = [task.regret(ConstantPolicy(task.problem, rank)) for rank in range(R_MAX + 1)]
    assert min(regrets) >= 1.0  # no one rank is best on every link


def test_no_rank_pattern_is_better_than_the_optimum(task: Task) -> None:
    patterns = map(np.asarray, itertools.product(range(R_MAX + 1), repeat=NUM_MODULES))
    best = max(task.reward(SNRS_DB[1], ranks) for ranks in patterns)
    assert task.reward(SNRS_DB[1], task.optimum(SNRS_DB[1])) == best


def test_ppo_learns(task: Task) -> None:
    policy = PPOPolicy(task.problem, PPOSettings(), seed=0)
    assert task.regret(policy) > 1.0
    task.teach(policy, 1536)
    assert task.regret(policy) < 0.3


def test_diffusion_alone_learns(task: Task) -> None:
    policy = DiffusionPolicy(task.problem, DIFFUSION, seed=0)
    assert task.regret(policy) > 1.0
    task.teach(policy, 896)
    assert task.regret(policy) < 0.5


def test_the_hierarchy_learns(task: Task) -> None:
    policy = HierarchicalPolicy(task.problem, PPOSettings(), DIFFUSION, seed=0)
    assert task.regret(policy) > 1.0
    task.teach(policy, 1024)
    assert task.regret(policy) < 0.4


def test_a_policy_gradient_through_the_chain_learns(task: Task) -> None:
    changes = {"loss": "policy_gradient", "eta": 1.0, "num_inference_steps": 5, "learning_rate": 3e-4}
    policy = DiffusionPolicy(task.problem, DIFFUSION.model_copy(update=changes), seed=0)
    start = task.regret(policy)
    assert start > 1.0
    task.teach(policy, 768)
    assert task.regret(policy) < 0.5


@pytest.mark.parametrize(("name", "steps", "regret"), [("ddim-q", 512, 0.4), ("ddim-utility", 256, 0.5)])
def test_a_critics_gradient_teaches_diffusion(task: Task, name: str, steps: int, regret: float) -> None:
    policy = DiffusionPolicy(task.problem, load_settings(overrides={"policy.name": name}).diffusion, seed=0)
    assert task.regret(policy) > 1.0
    task.teach(policy, steps)
    assert task.regret(policy) < regret


def test_the_distilled_sampler_is_nearly_its_planner(task: Task) -> None:
    settings = load_settings(overrides={"policy.name": "distilled"})
    student = DiffusionPolicy(task.problem, settings.diffusion, seed=0)
    task.teach(student, 256)
    twin = Task(seed=1)
    planner = AllocatePolicy(twin.problem, AllocateSettings(), seed=0)
    twin.teach(planner, 256)
    assert task.regret(student) < task.regret(planner) + 0.1


def test_cma_es_learns(task: Task) -> None:
    policy = CmaPolicy(task.problem, CmaSettings(), seed=0)
    assert task.regret(policy) > 1.0
    task.teach(policy, 1024)
    assert task.regret(policy) < 0.1


def test_the_planner_finds_the_optimum(task: Task) -> None:
    policy = AllocatePolicy(task.problem, AllocateSettings(), seed=0)
    task.teach(policy, 256)
    assert task.regret(policy) < 0.02


def test_the_literal_loss_copies_itself(task: Task) -> None:
    """Erratum 3: by the letter of Eq. 19 diffusion alone stays worse than a constant."""
    policy = DiffusionPolicy(task.problem, DIFFUSION.model_copy(update={"loss": "literal"}), seed=0)
    start = task.regret(policy)
    task.teach(policy, 384)
    assert task.regret(policy) > max(1.0, 0.7 * start)
