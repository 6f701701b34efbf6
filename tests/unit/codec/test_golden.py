from pathlib import Path

import numpy as np
import pytest

from airlora.codec import decode_delta

GOLDEN = Path(__file__).parents[2] / "golden" / "codec"


@pytest.mark.parametrize("name", ["small", "half", "delta"])
def test_a_golden_stream_decodes_to_the_same_bits(name: str) -> None:
    """The files were made by tests/golden/codec/make.py and stay."""
    old = (GOLDEN / "small.airs").read_bytes()
    decoded = decode_delta((GOLDEN / f"{name}.airs").read_bytes(), old, strict=True)
    found = {f"tensor.{key}": value for key, value in decoded.tensors.items()}
    for key, (U, V) in decoded.modules.items():
        found |= {f"U.{key}": U, f"V.{key}": V}
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as wanted:
        assert set(found) == set(wanted.files)
        for key in wanted.files:
            assert found[key].dtype == np.float32
            assert found[key].shape == wanted[key].shape
            assert found[key].tobytes() == wanted[key].tobytes()
