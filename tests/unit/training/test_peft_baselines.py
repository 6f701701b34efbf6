import pytest
import torch

from airlora.errors import SettingsError
from airlora.training import Settings, assemble, measure_peft_baseline
from airlora.training.peft_baselines import BASELINE_BITS, _rounded


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_every_precision_is_measured_and_pays_for_what_it_sends(settings: Settings, method: str) -> None:
    bench = assemble(settings)
    points = measure_peft_baseline(settings, bench.train, bench.eval, method=method, rank=2, num_labels=2, steps=20)
    assert [point.bits for point in points] == list(BASELINE_BITS)
    assert len({point.num_components for point in points}) == 1
    full = points[0]
    per_rank = [shape.d_in + shape.d_out for shape in bench.adapted.shapes.values()]
    num_head = sum(value.numel() for value in bench.adapted.head_state().values())
    if method == "lora":
        assert full.num_components == 2 * len(per_rank)
        assert full.payload_bytes == 4 * (2 * sum(per_rank) + num_head)
    else:
        assert 0 < full.num_components <= 2 * len(per_rank)
        assert full.payload_bytes <= 4 * (full.num_components * max(per_rank) + num_head)
    for point in points[1:]:
        share = (point.payload_bytes - full.payload_bytes * point.bits / 32) / full.payload_bytes
        assert 0 < share < 0.1
    assert abs(points[1].loss - full.loss) < 0.05
    assert abs(points[1].loss - full.loss) <= abs(points[2].loss - full.loss) + 0.01


def test_the_same_seed_gives_the_same_points(settings: Settings) -> None:
    bench = assemble(settings)
    first, second = (
        measure_peft_baseline(settings, bench.train, bench.eval, method="lora", rank=1, num_labels=2, steps=5)
        for _ in range(2)
    )
    assert first == second


def test_rounding_errs_by_half_a_step_of_its_slice() -> None:
    values = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [10.0], [0.0]])
    for axis, largest in ((0, values.abs().amax(dim=1, keepdim=True)), (1, values.abs().amax(dim=0, keepdim=True))):
        rounded = _rounded(values, 4, axis)
        assert bool(((rounded - values).abs() <= 0.501 * largest / 7).all())
        assert not torch.equal(rounded, values)
    assert bool((_rounded(values[0], 8, 0) - values[0]).abs().max() <= 0.51 * values[0].abs().max() / 127)


@pytest.mark.parametrize(
    ("method", "rank", "message"),
    [("dora", 2, "baseline = 'dora': allowed is one of lora, adalora"), ("lora", 0, "rank of a baseline = 0")],
)
def test_what_is_no_baseline_is_refused(settings: Settings, method: str, rank: int, message: str) -> None:
    bench = assemble(settings)
    with pytest.raises(SettingsError, match=message):
        measure_peft_baseline(settings, bench.train, bench.eval, method=method, rank=rank, num_labels=2, steps=1)
