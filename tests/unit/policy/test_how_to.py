import re
from pathlib import Path

import numpy as np

from airlora.policy import PolicyProblem, load_policy, register_policy, save_policy, specs

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "write-a-policy.md"


def test_the_code_of_the_how_to_runs_and_its_learner_is_saved(tmp_path: Path) -> None:
    names: dict[str, object] = {"__name__": "how_to"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102
    policy = names["policy"]
    assert policy.counts.sum() == 256  # type: ignore[attr-defined]
    assert len(names["rewards"]) == 256  # type: ignore[arg-type]
    spec = register_policy(type(policy))  # type: ignore[arg-type]
    save_policy(policy, tmp_path / "policy.pt")  # type: ignore[arg-type]
    again = load_policy(tmp_path / "policy.pt")
    del specs._REGISTERED[spec.name]
    observation = names["env"].observe()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(again.decide(observation), policy.decide(observation))  # type: ignore[attr-defined]
    assert isinstance(again.problem, PolicyProblem)
    assert [spec.name for spec in names["SPECS"]] == ["share", "share-small"]  # type: ignore[attr-defined]
