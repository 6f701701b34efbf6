import numpy as np
import torch

from airlora.policy.seeding import child_seeds, numpy_state, restore_numpy, restore_torch, seeded_init, torch_generator


def test_layers_follow_the_seed_and_the_global_generator_is_restored() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded_init(3):
        one = torch.nn.Linear(4, 4).weight
    assert torch.equal(torch.get_rng_state(), before)
    with seeded_init(3):
        other = torch.nn.Linear(4, 4).weight
    with seeded_init(4):
        different = torch.nn.Linear(4, 4).weight
    assert torch.equal(one, other)
    assert not torch.equal(one, different)


def test_restored_generators_continue() -> None:
    numpy_generator, generator = np.random.default_rng(1), torch_generator(1)
    numpy_generator.random(7)
    torch.rand(7, generator=generator)
    numpy_text, torch_state = numpy_state(numpy_generator), generator.get_state()
    expected = numpy_generator.random(3).tolist(), torch.rand(3, generator=generator).tolist()
    other_numpy, other = np.random.default_rng(9), torch_generator(9)
    restore_numpy(other_numpy, numpy_text)
    restore_torch(other, torch_state)
    assert (other_numpy.random(3).tolist(), torch.rand(3, generator=other).tolist()) == expected


def test_child_seeds_differ_and_repeat() -> None:
    assert child_seeds(42, 3) == child_seeds(42, 3)
    assert len({*child_seeds(42, 3), *child_seeds(43, 3)}) == 6
