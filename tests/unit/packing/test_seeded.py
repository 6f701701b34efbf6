from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from airlora.codec import SeededBasis, decode_stream
from airlora.errors import SettingsError
from airlora.packing import SeededForm
from airlora.tasks import evaluate
from airlora.training import RunContext, Settings, build_context, open_stream, read_metrics, stream_header, train

SIZE = 1200


@pytest.fixture
def seeded(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(
        **{
            "adapter.form": "seeded",
            "adapter.num_coefficients": (300,),
            "adapter.stream_bytes": SIZE,
            "adapter.nested_probability": 0.0,
            "adapter.orthogonality_weight": 0.0,
            "env.objective": "frozen",
            "policy.name": "constant",
            "policy.constant_rank": 4,
            "policy.early_stop": False,
            "finetune.rounding_start": 0.5,
            "finetune.learning_rate": 0.01,
            "finetune.head_learning_rate": 0.05,
            "model.dropout": False,
        }
    )


@pytest.fixture
def context(seeded: Settings) -> RunContext:
    return build_context(seeded)


def form_of(context: RunContext, settings: Settings, stream_bytes: int | None = SIZE) -> SeededForm:
    header = stream_header(context.adapted, settings, context.fingerprint, context.task)
    return SeededForm(context.adapted, header, stream_bytes=stream_bytes, seed=1)


def test_the_model_has_the_components_of_the_basis(seeded: Settings, context: RunContext) -> None:
    form = form_of(context, seeded)
    form.write(rounded=False)
    basis = SeededBasis((300,), 4)
    coefficients = form.coefficients.numpy()
    for name, U, V in basis.components(coefficients, context.adapted.shapes):
        left, right = context.adapted.updates[name].factors()
        np.testing.assert_allclose(left, U, rtol=1e-6)
        np.testing.assert_allclose(right, V, rtol=1e-6)


def test_the_gradient_is_that_of_the_coefficients(seeded: Settings, context: RunContext) -> None:
    form, batch = form_of(context, seeded), context.train.batch(np.arange(16), context.device)
    context.adapted.model.double()

    def loss() -> torch.Tensor:
        form.write(rounded=False)
        return context.task.batch_loss(context.adapted.model, batch)

    with torch.no_grad():
        form.chunks[0].mul_(20)
    loss().backward()
    form.collect()
    gradient = form.chunks[0].grad
    assert gradient is not None
    assert all(p.grad is None for p in context.adapted.trainable_parameters())
    assert all(own.grad is not None for own in form.head.values())
    direction = torch.randn(300, generator=torch.Generator().manual_seed(0))
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            form.chunks[0].add_(sign * 1e-3 * direction)
        ends.append(float(loss().detach()))
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(float(gradient @ direction), rel=1e-3)


def test_rounding_in_training_is_that_of_the_stream(seeded: Settings, context: RunContext) -> None:
    form = form_of(context, seeded)
    data = form.encode()
    assert len(data) <= SIZE
    form.write(rounded=True)
    decoded = decode_stream(data, strict=True)
    for name, (U, V) in decoded.modules.items():
        left, right = context.adapted.updates[name].factors()
        np.testing.assert_allclose(left @ right, U @ V, rtol=1e-5, atol=1e-9)
    for name, value in context.adapted.head_state().items():
        np.testing.assert_array_equal(value.numpy(), decoded.tensors[name])


@pytest.mark.parametrize("size", [750, 1100])
def test_the_stream_has_the_size_that_is_asked_for(seeded: Settings, context: RunContext, size: int) -> None:
    form = form_of(context, seeded, size)
    with torch.no_grad():
        form.chunks[0].mul_(torch.linspace(0.1, 3, 300))
    assert 0.98 * size <= len(form.encode()) <= size


def test_without_a_size_nothing_is_rounded(seeded: Settings, context: RunContext) -> None:
    form = form_of(context, seeded, None)
    for rounded in (False, True):
        form.write(rounded=rounded)
        np.testing.assert_allclose(
            next(SeededBasis((300,), 4).components(form.coefficients.numpy(), context.adapted.shapes))[2],
            next(iter(context.adapted.updates.values())).factors()[1],
            rtol=1e-6,
        )
    with pytest.raises(SettingsError, match="size of the stream"):
        form.encode()


def test_a_header_without_a_fitting_basis_is_refused(seeded: Settings, context: RunContext) -> None:
    header = stream_header(context.adapted, seeded, context.fingerprint, context.task)
    for basis in (None, SeededBasis((300,), 3)):
        with pytest.raises(SettingsError, match=r"rank of the seeded basis = \w+: allowed is r_max = 4"):
            SeededForm(context.adapted, replace(header, basis=basis))


def test_a_run_writes_a_stream_with_its_own_result(seeded: Settings, tmp_path: Path) -> None:
    settings = seeded.model_copy(update={"finetune": seeded.finetune.model_copy(update={"steps": 60})})
    record = train(settings, tmp_path / "run")
    data = (tmp_path / "run" / "stream.airs").read_bytes()
    assert len(data) <= SIZE
    assert record.num_params == 300
    stream = open_stream(data, model=seeded.model.name)
    context = build_context(seeded)
    found = evaluate(stream.adapted.model, context.eval, stream.device)
    assert found.loss == pytest.approx(record.metrics["loss"], abs=1e-6)
    losses = [line["loss"] for line in read_metrics(tmp_path / "run") if line["kind"] == "eval"]
    assert losses[-1] < losses[0]
