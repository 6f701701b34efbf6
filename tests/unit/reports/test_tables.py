import pytest

from airlora.reports.tables import projection_column


@pytest.mark.parametrize(
    ("name", "column"),
    [("mlp.gate_proj", "gate"), ("mlp.gate_proj.in", "gate"), ("mlp.up_proj.in", "fc1"), ("mlp.up_proj", "fc1")],
)
def test_a_gated_ffn_has_two_columns(name: str, column: str) -> None:
    assert projection_column(f"model.layers.0.{name}", {"role": "fc1", "layer": 0}) == column
