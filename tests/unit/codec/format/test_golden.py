from pathlib import Path

import numpy as np
import pytest

from airlora.codec import decode_stream

GOLDEN = Path(__file__).parents[3] / "golden" / "codec"  # written by tests/golden/codec/make.py


@pytest.mark.parametrize("name", ["small", "half", "delta"])
def test_a_golden_stream_decodes_to_the_same_bits(name: str) -> None:
    base = decode_stream((GOLDEN / "small.airs").read_bytes(), strict=True)
    decoded = decode_stream((GOLDEN / f"{name}.airs").read_bytes(), strict=True, base=base)
    found = {f"tensor.{key}": value for key, value in decoded.tensors.items()}
    for key, (U, V) in decoded.modules.items():
        found |= {f"U.{key}": U, f"V.{key}": V}
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as expected:
        assert set(found) == set(expected.files)
        for key in expected.files:
            assert found[key].dtype == np.float32
            assert found[key].shape == expected[key].shape
            assert found[key].tobytes() == expected[key].tobytes()
