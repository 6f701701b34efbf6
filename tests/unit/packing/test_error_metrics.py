from collections.abc import Callable

import numpy as np
import pytest
import torch

from airlora.codec.encoder.metric import squared_norms
from airlora.packing.error_metrics import measure_metrics
from airlora.training import RunContext, Settings, build_context


@pytest.fixture(scope="module")
def bench(make_settings: Callable[..., Settings]) -> RunContext:
    bench = build_context(make_settings())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for update in bench.adapted.updates.values():
            update.lam.copy_(0.3 * torch.randn(update.lam.shape, generator=generator))
    return bench


def test_an_error_is_weighted_by_the_change_of_the_modules_output(bench: RunContext) -> None:
    name, update = next(iter(bench.adapted.updates.items()))
    inputs: list[torch.Tensor] = []
    batches = [bench.calibration.batch(rows, bench.device) for rows in bench.calibration.in_order(8)]
    handle = update.register_forward_hook(lambda module, args, output: inputs.append(args[0].detach()))
    for batch in batches:
        bench.adapted.model.eval()(**batch)
    handle.remove()
    masks = [batch["attention_mask"].bool() for batch in batches]
    x = torch.cat([rows[mask] for rows, mask in zip(inputs, masks, strict=True)]).double().numpy()
    _, right = measure_metrics(bench.adapted, bench.calibration, bench.device, 8)[name]
    errors = np.random.default_rng(1).standard_normal((20, x.shape[1]))
    moved = np.square(x @ errors.T).mean(axis=0)
    trace = np.square(x).sum(axis=1).mean() / x.shape[1]
    damped = moved / trace + 0.1 * np.square(errors).sum(axis=1)
    found = squared_norms(errors, right)
    np.testing.assert_allclose(found / found[0], damped / damped[0], rtol=1e-3)


def test_blocks_cover_a_wide_module_and_the_model_keeps_no_traces(bench: RunContext) -> None:
    before = {name: value.clone() for name, value in bench.adapted.model.state_dict().items()}
    found = measure_metrics(bench.adapted, bench.calibration, bench.device, 8, max_block=5)
    for name, (left, right) in found.items():
        shape = bench.adapted.shapes[name]
        assert (left.size, right.size) == (shape.d_out, shape.d_in)
        assert max(len(factor) for factor in (*left.factors, *right.factors)) <= 5
    assert all(torch.equal(value, before[name]) for name, value in bench.adapted.model.state_dict().items())
    assert all(parameter.grad is None for parameter in bench.adapted.model.parameters())
    assert not any(update._forward_hooks for update in bench.adapted.updates.values())
