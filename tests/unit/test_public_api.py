import subprocess
import sys

import airlora

PUBLIC = [
    "AdaptedModel",
    "AirloraError",
    "AnalyticObjective",
    "FadingModel",
    "FrozenObjective",
    "Learner",
    "Link",
    "LinkModel",
    "LinkProcess",
    "LiveObjective",
    "ModuleShape",
    "Objective",
    "Observation",
    "ObservationSpec",
    "OpenRun",
    "PolicyProblem",
    "RankAllocationEnv",
    "RankPattern",
    "RankPolicy",
    "RankPolicyCallback",
    "RunFolder",
    "SVDLinear",
    "Settings",
    "TextDataset",
    "__version__",
    "attach",
    "base_fingerprint",
    "budget_params",
    "canonicalise",
    "capacity_bps",
    "communication_cost",
    "compare_policies",
    "decide_for_link",
    "embedded_corpus",
    "evaluate_run",
    "export",
    "find_projections",
    "inject",
    "inspect_run",
    "lexical_entropy_nats",
    "load_adapter",
    "load_base_model",
    "load_dataset",
    "load_policy",
    "load_settings",
    "load_stream",
    "make_policy",
    "oov_rate",
    "open_run",
    "pack",
    "project_ranks",
    "run_demo",
    "save_adapter",
    "save_policy",
    "save_settings",
    "train",
    "transfer_time_s",
    "wrap",
]


def test_the_public_api_is_exactly_this() -> None:
    assert airlora.__all__ == PUBLIC
    assert dir(airlora) == sorted(PUBLIC)


def test_every_public_name_is_there_and_documented() -> None:
    for name in airlora.__all__:
        value = getattr(airlora, name)
        assert name == "__version__" or value.__doc__, name


def test_importing_airlora_loads_neither_torch_nor_transformers() -> None:
    code = "import airlora, sys; print(sorted({'torch', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(airlora, "no_such_name")
