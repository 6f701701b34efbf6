import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from airlora.errors import PolicyError, SettingsError
from airlora.observation import IntArray, Observation, ObservationSpec
from airlora.policy import (
    GreedyPolicy,
    PolicyInputs,
    PolicyProblem,
    PolicySpec,
    SavedByArguments,
    find_policy,
    import_policy,
    load_policy,
    make_policy,
    policy_specs,
    register_policy,
    save_policy,
    specs,
)
from airlora.settings.fields import Fraction, Section
from airlora.training import RunFolder, load_settings, save_settings, with_policy, with_values

PROBLEM = PolicyProblem(("a", "b"), (10, 30), ObservationSpec(num_modules=2, r_max=4))
OBSERVATION = Observation(5.0, 1e6, 2.0, 0.2, np.zeros(2, np.int64), 160)

MODULE = """
import numpy as np
from airlora.policy import PolicySpec, SavedByArguments
from airlora.settings.fields import Fraction, Section

class Settings(Section):
    share: Fraction = 0.5
    first_rank: int | None = None

class Share(SavedByArguments):
    '''A share of the budget, spread evenly.

    More.
    '''

    def __init__(self, problem, settings, seed=None):
        self.problem, self.settings, self.seed = problem, settings, seed

    @property
    def arguments(self):
        return {"settings": self.settings.model_dump(), "seed": self.seed}

    @classmethod
    def from_arguments(cls, problem, arguments, device="cpu"):
        return cls(problem, Settings(**arguments["settings"]), arguments["seed"])

    def decide(self, observation):
        rank = int(self.settings.share * observation.budget_params) // sum(self.problem.params_per_rank)
        return np.full(self.problem.num_modules, min(rank, self.problem.r_max))

class Bare:
    '''Rank 1.'''

    def __init__(self, problem):
        self.num_modules = problem.num_modules

    def decide(self, observation):
        return np.ones(self.num_modules, dtype=np.int64)

class Other:
    pass

SPEC = PolicySpec("share", Share, "a share of the budget", settings=Settings, colour="#123456")
SPECS = (SPEC, SPEC.variant("share-small", "a tenth of the budget", {"policy.settings.share": 0.1}))
"""


@pytest.fixture(autouse=True)
def _clean_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(specs, "_REGISTERED", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if "own_policies" in name or name == "airlora.policy.half":
            del sys.modules[name]
    specs._built_in.cache_clear()
    specs._installed.cache_clear()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module with policies in the current directory, which is not imported yet."""
    (tmp_path / "own_policies.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return "own_policies"


def test_the_built_in_policies_keep_their_order() -> None:
    order = [
        *("allocate", "distilled", "distilled-bare"),
        *("airllm", "airllm-literal", "airllm-ddpm", "airllm-unet", "airllm-latent", "ppo"),
        *("ddim", "ddim-literal", "ddim-q", "ddim-utility", "ddim-gradient"),
        *("cmaes", "greedy", "eva", "constant", "random"),
    ]
    assert [name for name in policy_specs() if name in order] == order


def test_a_new_module_of_the_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import airlora.policy

    (tmp_path / "half.py").write_text(
        "from airlora.policy.specs import PolicySpec\n"
        "class Half:\n    def decide(self, observation): ...\n"
        "SPECS = (PolicySpec('half', Half, 'half of the budget', order=65),)\n"
    )
    monkeypatch.setattr(airlora.policy, "__path__", [*airlora.policy.__path__, str(tmp_path)])
    specs._built_in.cache_clear()
    names = list(policy_specs())
    assert names[names.index("half") - 1 : names.index("half") + 2] == ["cmaes", "half", "greedy"]
    assert load_settings(overrides={"policy.name": "half"}).policy.name == "half"


def test_a_class_in_the_current_directory_is_imported_by_its_path(module: str) -> None:
    name = f"{module}:Bare"
    spec = import_policy(name)
    assert (spec.name, spec.summary, spec.learns) == (name, "Rank 1.", False)
    assert find_policy(name) is spec
    assert list(policy_specs())[-1] == name
    assert make_policy(name, PROBLEM, seed=0).decide(OBSERVATION).tolist() == [1, 1]
    assert load_settings(overrides={"policy.name": name}).policy.name == name


def test_a_class_is_imported_from_sys_path(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="policy.name = 'own_policies:Bare': importing own_policies failed"):
        import_policy(f"{module}:Bare")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_policy(f"{module}:Bare").summary == "Rank 1."


def test_a_class_with_a_spec_brings_its_settings(module: str) -> None:
    spec = import_policy(f"{module}:Share")
    assert (spec.name, spec.colour, spec.summary) == (f"{module}:Share", "#123456", "a share of the budget")
    policy = make_policy(spec.name, PROBLEM, spec.settings(share=0.25), seed=3)  # type: ignore[misc]
    assert policy.decide(OBSERVATION).tolist() == [1, 1]
    assert policy.seed == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_policies:Gone", "allowed is a class of own_policies, which has none of the name Gone"),
        ("own_policies:Other", "'own_policies:Other': allowed is a class with the method decide"),
        ("own_policies:SPEC", "allowed is a class of own_policies"),
        ("no_such_module:Bare", "No module named 'no_such_module'"),
        ("own_policies", "allowed is one of .*, or package.module:Class"),
        ("own_policies:", "allowed is package.module:Class"),
        ("../own_policies:Bare", "allowed is package.module:Class"),
    ],
)
def test_a_path_without_a_policy_is_refused_in_a_line(module: str, name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        import_policy(name)
    assert "\n" not in str(caught.value)


def test_a_registered_class_is_known_under_its_path_and_not_under_a_taken_name() -> None:
    class Mine:
        def decide(self, observation: Observation) -> IntArray:
            return np.zeros(2, np.int64)

    assert find_policy(register_policy(Mine).name).policy is Mine
    assert register_policy(PolicySpec("mine", Mine)).name == "mine"
    with pytest.raises(SettingsError, match="policy.name = 'ppo': allowed is a name that no built-in"):
        register_policy(Mine, "ppo")


def test_installed_entry_points_are_known_by_name(
    module: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = {
        "half": f"{module}:SPEC",
        "bare": f"{module}:Bare",
        "ppo": f"{module}:Bare",
        "broken": "no_such_module:Bare",
        "exits": "exits_at_once:Bare",
        "other": f"{module}:Other",
    }
    Path("exits_at_once.py").write_text("raise SystemExit(3)\n")
    entries = [EntryPoint(name, value, specs.ENTRY_POINTS) for name, value in values.items()]
    monkeypatch.setattr(specs, "entry_points", lambda group: entries if group == specs.ENTRY_POINTS else [])
    monkeypatch.syspath_prepend(".")
    specs._installed.cache_clear()
    assert set(policy_specs()) >= {"half", "bare"}
    assert find_policy("ppo").policy.__name__ == "PPOPolicy"
    settings = load_settings(overrides={"policy.name": "half", "policy.settings.share": 0.2})
    assert settings.policy.settings == {"share": 0.2}
    assert {record.args[0] for record in caplog.records} == {"ppo", "broken", "exits", "other"}  # type: ignore[index]


def test_own_settings_come_from_single_values_and_files_and_are_saved(module: str, tmp_path: Path) -> None:
    name = import_policy(f"{module}:Share").name
    chosen = load_settings(overrides={"policy.name": name, "policy.settings.first_rank": 2})
    assert chosen.policy.settings == {"share": 0.5, "first_rank": 2}
    (tmp_path / "s.toml").write_text(f'[policy]\nname = "{name}"\n[policy.settings]\nshare = 0.3\n')
    from_file = load_settings(toml=tmp_path / "s.toml", overrides={"policy.settings.first_rank": 3})
    assert from_file.policy.settings == {"share": 0.3, "first_rank": 3}
    save_settings(from_file, tmp_path / "saved.toml")
    assert load_settings(toml=tmp_path / "saved.toml") == from_file
    assert with_values(from_file, {"policy.settings.share": 0.7}).policy.settings["share"] == 0.7
    assert with_policy(from_file, "ppo") == load_settings(overrides={"policy.name": "ppo"})


def test_a_variant_overrides_own_settings(module: str) -> None:
    import_policy(f"{module}:Share")
    spec = register_policy(sys.modules[module].SPECS[1])
    settings = load_settings(overrides={"policy.name": spec.name})
    assert settings.policy.settings == {"share": 0.1}
    assert with_policy(load_settings(overrides={"policy.name": f"{module}:Share"}), spec.name) == settings
    mine = load_settings(overrides={"policy.name": spec.name, "policy.settings.share": 0.2})
    assert mine.policy.settings == {"share": 0.2}


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("own_policies:Share", {"share": 7}, "^policy.settings.share = 7: allowed is less than or equal to 1$"),
        ("own_policies:Share", {"shar": 0.1}, "^policy.settings.shar: no such setting; policy.settings has share, fi"),
        ("own_policies:Bare", {"share": 0.1}, "policy.settings = {'share': 0.1}: allowed is no key, since the policy"),
        ("ppo", {"share": 0.1}, "policy.settings = {'share': 0.1}: allowed is no key, since the policy 'ppo'"),
    ],
)
def test_own_settings_that_are_not_allowed_are_refused(
    module: str, name: str, values: dict[str, object], message: str
) -> None:
    import_policy(name)
    overrides = {f"policy.settings.{key}": value for key, value in values.items()}
    with pytest.raises(SettingsError, match=message):
        load_settings(overrides={"policy.name": name} | overrides)


def test_a_constructor_gets_the_arguments_that_it_names() -> None:
    class Own(Section):
        share: Fraction = 0.5

    class Mine:
        def __init__(self, problem: PolicyProblem, importance: object, seed: int, settings: Own, rank: int = 3) -> None:
            self.given = (problem, importance, seed, settings.share, rank)

        def decide(self, observation: Observation) -> IntArray:
            return np.zeros(2, np.int64)

    spec = PolicySpec("mine", Mine, settings=Own)
    made = spec.make(PROBLEM, PolicyInputs(seed=5, sections=(Own(share=0.1),)))
    assert made.given == (PROBLEM, None, 5, 0.1, 3)  # type: ignore[attr-defined]

    class Needy(Mine):
        def __init__(self, problem: PolicyProblem, budget: int) -> None: ...

    with pytest.raises(PolicyError, match="'needy': cannot be made, missing a required argument: 'budget'; known arg"):
        PolicySpec("needy", Needy).make(PROBLEM, PolicyInputs())


def test_a_policy_without_its_measurement_is_refused() -> None:
    with pytest.raises(PolicyError, match="policy 'greedy': needs the importance of every component"):
        make_policy("greedy", PROBLEM, seed=0)
    policy = make_policy("greedy", PROBLEM, seed=0, importance=np.ones((2, 4)))
    assert isinstance(policy, GreedyPolicy)


class TestNothingIsImportedBecauseAFileNamesIt:
    """The name of a class in a file is data: no module is imported, and using the class asks for `--policy`."""

    def test_by_settings(self, module: str, tmp_path: Path) -> None:
        name = f"{module}:Share"
        (tmp_path / "settings.toml").write_text(f'[policy]\nname = "{name}"\n[policy.settings]\nshare = 7\n')
        settings = RunFolder(tmp_path).settings()
        assert (settings.policy.name, settings.policy.settings) == (name, {"share": 7})
        # Values of unknown origin, such as those of a stream's metadata, reach `load_settings` as overrides.
        assert load_settings(overrides={"policy.name": name}).policy.name == name
        assert with_policy(settings, "ppo").policy.name == "ppo"
        for use in (lambda: make_policy(name, PROBLEM, seed=0), lambda: with_policy(load_settings(), name)):
            with pytest.raises(SettingsError, match=f"never imported because a file names it; pass --policy {name}"):
                use()
        assert module not in sys.modules
        assert str(tmp_path) not in sys.path

    def test_by_a_policy_file(self, module: str, tmp_path: Path) -> None:
        spec = import_policy(f"{module}:Share")
        policy = make_policy(spec.name, PROBLEM, spec.settings(share=0.25), seed=3)  # type: ignore[misc]
        save_policy(policy, tmp_path / "policy.pt")
        again = load_policy(tmp_path / "policy.pt", PROBLEM)
        assert type(again) is spec.policy
        assert again.decide(OBSERVATION).tolist() == policy.decide(OBSERVATION).tolist()
        # A new process knows nothing of the class.
        specs._REGISTERED.clear()
        del sys.modules[module]
        with pytest.raises(PolicyError, match=f"made by the class {module}:Share; .*; pass --policy {module}:Share"):
            load_policy(tmp_path / "policy.pt")
        assert module not in sys.modules
        import_policy(f"{module}:Share")
        assert load_policy(tmp_path / "policy.pt").decide(OBSERVATION).tolist() == [1, 1]


def test_a_policy_that_lacks_members_cannot_be_saved(module: str, tmp_path: Path) -> None:
    policy = make_policy(import_policy(f"{module}:Bare").name, PROBLEM, seed=0)
    with pytest.raises(PolicyError, match="'Bare': cannot be saved, since it lacks problem, arguments, from_arguments"):
        save_policy(policy, tmp_path / "policy.pt")
    assert not (tmp_path / "policy.pt").exists()


def test_a_stateless_policy_is_saved_by_its_arguments(tmp_path: Path) -> None:
    class Fixed(SavedByArguments):
        def __init__(self, problem: PolicyProblem, rank: int) -> None:
            self.problem, self.arguments = problem, {"rank": rank}

        def decide(self, observation: Observation) -> IntArray:
            return np.full(self.problem.num_modules, self.arguments["rank"])

    register_policy(Fixed)
    save_policy(Fixed(PROBLEM, 2), tmp_path / "policy.pt")
    assert load_policy(tmp_path / "policy.pt").decide(OBSERVATION).tolist() == [2, 2]
