import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from airlora.policy.diffusion.time_embedding import time_embedding

EVERY_STEP = torch.arange(1000)


def test_embeddings_equal_those_of_diffusers() -> None:
    theirs = get_timestep_embedding(EVERY_STEP, 64, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(time_embedding(EVERY_STEP, 64), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [2, 7, 64])
def test_embeddings_of_all_steps_differ(size: int) -> None:
    embedding = time_embedding(EVERY_STEP, size)
    assert embedding.shape == (1000, size)
    assert len(torch.unique(embedding, dim=0)) == 1000
