import numpy as np
import pytest

from airlora.codec import (
    DenseTensor,
    ErrorMetric,
    ModuleUpdate,
    StreamHeader,
    decode_stream,
    encode_stream,
    preview_stream,
)
from airlora.ranks import ModuleShape

Sources = tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, DenseTensor]]


@pytest.fixture
def sources() -> Sources:
    generator = np.random.default_rng(0)
    moments = [np.diag(generator.uniform(0.1, 3.0, size)) for size in (12, 20)]
    metrics = ErrorMetric.from_moments([moments[0]]), ErrorMetric.from_moments([moments[1]])
    importance = np.array([0.3, 0.15, 0.05])
    shapes = {"a": ModuleShape(d_in=20, d_out=12), "b": ModuleShape(d_in=8, d_out=16)}
    updates = {
        name: ModuleUpdate(
            5.0 * generator.normal(size=(shape.d_out, 3)),
            generator.normal(size=(3, shape.d_in)),
            importance,
            metrics if name == "a" else None,
        )
        for name, shape in shapes.items()
    }
    tensors = {"head": DenseTensor(generator.normal(size=(2, 10)), 1.0)}
    header = StreamHeader(
        base_fingerprint="0" * 64, modules=shapes, tensors={"head": (2, 10)}, r_max=4, scale=2.0, metadata={}
    )
    return header, updates, tensors


@pytest.mark.parametrize("layers", [1, 3])
def test_a_preview_equals_the_decoded_stream(sources: Sources, layers: int) -> None:
    header, updates, tensors = sources
    found = preview_stream(header, updates, tensors, max_distortion=0.05, layers=layers)
    decoded = decode_stream(encode_stream(header, updates, tensors, max_distortion=0.05, layers=layers))
    last = {(item.module, item.index): item for item in found.items}
    assert len(found.items) == len(last) if layers == 1 else len(found.items) > len(last)
    assert len(last) == decoded.num_components
    for (name, index), item in last.items():
        U, V = decoded.modules[name]
        np.testing.assert_allclose(np.outer(item.u, item.v), np.outer(U[:, index], V[index]), rtol=1e-5)
    np.testing.assert_array_equal(found.tensors["head"], decoded.tensors["head"])


def test_a_preview_has_the_scale_of_its_source(
    sources: Sources,
) -> None:
    header, updates, tensors = sources
    for item in preview_stream(header, updates, tensors, max_distortion=0.01).items:
        u, v = updates[item.module].U[:, item.index], updates[item.module].V[item.index]
        assert np.linalg.norm(item.u - u) < 0.3 * np.linalg.norm(u)
        assert np.linalg.norm(item.v - v) < 0.3 * np.linalg.norm(v)


def test_earlier_layers_of_a_preview_are_coarser(
    sources: Sources,
) -> None:
    header, updates, tensors = sources
    items = [
        i for i in preview_stream(header, updates, tensors, max_distortion=0.01, layers=3).items if i.module == "b"
    ]
    exact = np.outer(updates["b"].U[:, 0], updates["b"].V[0])
    errors = [np.linalg.norm(np.outer(item.u, item.v) - exact) for item in items if item.index == 0]
    assert len(errors) > 1
    assert errors == sorted(errors, reverse=True)
