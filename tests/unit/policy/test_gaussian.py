import torch

from airlora.policy.gaussian import gaussian_entropy, gaussian_log_prob, gaussian_sample

MEAN = torch.tensor([[0.5, -1.0], [0.0, 2.0]])
LOG_STD = torch.tensor([-1.0, 0.3])


def test_agrees_with_torch() -> None:
    action = torch.tensor([[0.1, 0.2], [-3.0, 1.0]])
    oracle = torch.distributions.Independent(torch.distributions.Normal(MEAN, LOG_STD.exp()), 1)
    torch.testing.assert_close(gaussian_log_prob(action, MEAN, LOG_STD), oracle.log_prob(action))
    torch.testing.assert_close(gaussian_entropy(LOG_STD).expand(2), oracle.entropy())


def test_samples_have_the_moments_and_come_back_from_the_seed() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = gaussian_sample(MEAN[:1].expand(20_000, 2), LOG_STD, generator)
    torch.testing.assert_close(samples.mean(0), MEAN[0], atol=0.03, rtol=0)
    torch.testing.assert_close(samples.std(0), LOG_STD.exp(), atol=0.03, rtol=0)
    again = gaussian_sample(MEAN[:1].expand(20_000, 2), LOG_STD, torch.Generator().manual_seed(0))
    assert torch.equal(samples, again)
