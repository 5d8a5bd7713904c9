"""Random numbers of a resumed run."""

import pytest
import torch

from pipeline.training.random_state import random_state, restore_random_state
from tests.pipeline.training.small_trainings import CPU


def test_restored_generators_draw_the_same_numbers_again() -> None:
    own = torch.Generator().manual_seed(3)
    state = random_state(own, CPU)
    drawn = torch.rand(5, generator=own), torch.rand(5)
    restore_random_state(state, own, CPU)
    again = torch.rand(5, generator=own), torch.rand(5)
    torch.testing.assert_close(again, drawn, rtol=0, atol=0)


def test_state_of_the_gpu_is_restored_if_the_run_had_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, own = torch.device("cuda"), torch.Generator()
    of_gpu = torch.arange(16, dtype=torch.uint8)
    restored: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: of_gpu)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append(state))
    restore_random_state(random_state(own, CPU), own, gpu)
    assert restored == []
    restore_random_state(random_state(own, gpu), own, gpu)
    assert [state.tolist() for state in restored] == [of_gpu.tolist()]
