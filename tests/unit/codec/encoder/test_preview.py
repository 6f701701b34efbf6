import numpy as np
import pytest

from airlora.codec import ErrorMetric, HeadTensor, ModuleUpdate, StreamHeader, decode_stream, encode_stream
from airlora.codec import preview_stream as preview
from airlora.ranks import ModuleShape


@pytest.fixture
def sources() -> tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, HeadTensor]]:
    """Two modules, one with metrics, and a head."""
    generator = np.random.default_rng(0)
    moments = [np.diag(generator.uniform(0.1, 3.0, size)) for size in (12, 20)]
    metrics = ErrorMetric.of([moments[0]]), ErrorMetric.of([moments[1]])
    weights = np.array([0.3, 0.15, 0.05])
    shapes = {"a": ModuleShape(d_in=20, d_out=12), "b": ModuleShape(d_in=8, d_out=16)}
    updates = {
        name: ModuleUpdate(
            5.0 * generator.normal(size=(shape.d_out, 3)),
            generator.normal(size=(3, shape.d_in)),
            weights,
            metrics if name == "a" else None,
        )
        for name, shape in shapes.items()
    }
    head = {"head": HeadTensor(generator.normal(size=(2, 10)), 1.0)}
    header = StreamHeader(
        base_fingerprint="0" * 64, modules=shapes, tensors={"head": (2, 10)}, r_max=4, scale=2.0, metadata={}
    )
    return header, updates, head


@pytest.mark.parametrize("layers", [1, 3])
def test_it_is_what_the_stream_decodes_to(
    sources: tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, HeadTensor]], layers: int
) -> None:
    header, updates, head = sources
    found = preview(header, updates, head, max_distortion=0.05, layers=layers)
    decoded = decode_stream(encode_stream(header, updates, head, max_distortion=0.05, layers=layers))
    last = {(item.module, item.index): item for item in found.items}
    assert len(found.items) == len(last) if layers == 1 else len(found.items) > len(last)
    assert len(last) == decoded.num_components
    for (name, index), item in last.items():
        U, V = decoded.modules[name]
        np.testing.assert_allclose(np.outer(item.u, item.v), np.outer(U[:, index], V[index]), rtol=1e-5)
    np.testing.assert_array_equal(found.tensors["head"], decoded.tensors["head"])


def test_it_is_scaled_as_its_source(
    sources: tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, HeadTensor]],
) -> None:
    header, updates, head = sources
    for item in preview(header, updates, head, max_distortion=0.01).items:
        u, v = updates[item.module].U[:, item.index], updates[item.module].V[item.index]
        assert np.linalg.norm(item.u - u) < 0.3 * np.linalg.norm(u)
        assert np.linalg.norm(item.v - v) < 0.3 * np.linalg.norm(v)


def test_the_first_layer_is_coarser(
    sources: tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, HeadTensor]],
) -> None:
    header, updates, head = sources
    items = [i for i in preview(header, updates, head, max_distortion=0.01, layers=3).items if i.module == "b"]
    of_first = [item for item in items if item.index == 0]
    gaps = [np.linalg.norm(np.outer(i.u, i.v) - np.outer(updates["b"].U[:, 0], updates["b"].V[0])) for i in of_first]
    assert len(gaps) > 1
    assert gaps == sorted(gaps, reverse=True)
