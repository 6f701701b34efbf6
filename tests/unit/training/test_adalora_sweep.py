import pytest

from airlora.errors import TrainingError
from airlora.training import Settings, assemble, train_adalora, train_adalora_sweep

BUDGETS = [150, 900]


@pytest.fixture
def wide(settings: Settings) -> Settings:
    """The same run, allowed a second thread."""
    return settings.model_copy(update={"num_threads": 2})


def test_processes_give_what_one_after_the_other_gives(settings: Settings, wide: Settings) -> None:
    bench = assemble(settings)
    counts: list[int] = []
    expected = [
        train_adalora(settings, bench.train, bench.eval, budget_params=budget, num_labels=2, steps=8)
        for budget in BUDGETS
    ]
    for chosen in (settings, wide):
        counts.clear()
        results = train_adalora_sweep(
            chosen, bench.train, bench.eval, budgets_params=BUDGETS, num_labels=2, steps=8, on_step=counts.append
        )
        assert results == expected
        assert counts == sorted(counts)
        assert counts[-1] == 16


def test_an_error_in_a_process_is_raised_here(wide: Settings) -> None:
    settings = wide.model_copy(update={"finetune": wide.finetune.model_copy(update={"adalora_learning_rate": 1e30})})
    bench = assemble(settings)
    with pytest.raises(TrainingError, match=r"loss = nan at step \d+"):
        train_adalora_sweep(settings, bench.train, bench.eval, budgets_params=[900, 900, 900], num_labels=2, steps=2000)
