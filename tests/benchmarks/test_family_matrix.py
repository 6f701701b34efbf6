"""Families whose projections have other names or are fused, from an adapter to a stream and to stock PEFT."""

import runpy
from pathlib import Path
from typing import Any

import pytest

MATRIX: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "family_matrix.py"))


@pytest.mark.parametrize(
    ("family", "task", "roles"),
    [
        ("phi3", "causal-lm", {"qkv": 2, "o": 2, "fc1": 2, "fc2": 2}),
        ("gpt-neox", "causal-lm", {"qkv": 2, "o": 2, "fc1": 2, "fc2": 2}),
        ("modernbert", "classification", {"qkv": 2, "o": 2, "fc1": 2, "fc2": 2}),
        ("t5", "classification", {"q": 6, "k": 6, "v": 6, "o": 6, "fc1": 4, "fc2": 4}),
    ],
)
def test_stream_and_export_keep_the_logits(family: str, task: str, roles: dict[str, int]) -> None:
    found = MATRIX["measure"](family, task)
    assert found.roles == roles
    assert found.skipped == []
    assert found.loss_ratio < 0.95
    assert found.effect > 0.05
    assert found.qat_components > 0
    assert max(found.stream_error, found.peft_error) < 1e-5


@pytest.mark.parametrize(
    ("family", "skipped"),
    [
        ("deberta-v2", "attention.self.pos_key_proj, attention.self.pos_query_proj"),
        ("mixtral", "mlp.experts.gate_up_proj, mlp.experts.down_proj"),
    ],
)
def test_what_is_not_adapted_is_named_in_a_warning(family: str, skipped: str) -> None:
    (message,) = MATRIX["measure"](family, "classification").skipped
    assert "not adapted" in message
    assert message.endswith(skipped)
