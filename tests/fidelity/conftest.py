"""Failures in the shared laws are shown with their values."""

import pytest
import torch

pytest.register_assert_rewrite("laws")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Oracles compute as a Step does: on two threads sums round otherwise, and an absolute error's sign may turn."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
