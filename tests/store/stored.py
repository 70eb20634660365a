"""What the tests put into a store."""

import torch

TENSORS = {
    "float": torch.randn(3, 4), "half": torch.ones(2, dtype=torch.bfloat16),
    "bytes": torch.arange(5, dtype=torch.uint8), "scalar": torch.tensor(7), "empty": torch.zeros(0, 3),
    "bool": torch.tensor([True, False]), "part": torch.arange(10)[::2],
    "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
}

VALUE = {"b": [1, 2.5, None, True], "a": {"é\n": "\ud800", "z": 10**20}, "": list(range(40))}
