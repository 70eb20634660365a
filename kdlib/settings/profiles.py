"""Named sets of Experiment defaults. A default, once published, never changes (Experiment.key).

A strategy takes those settings that it has, and adds its own (Strategy.profiles).
"""

from typing import Any

from kdlib.settings.architectures import TEXT_ZOO

PROFILES: dict[str, dict[str, Any]] = {
    "paper": {},
    "narrow": {"width": 0.125, "test_items": 2000},  # the paper's protocol, for hours of a laptop
    "laptop": {
        "clients": 12, "clients_per_round": 12, "samples": 500, "rounds": 10, "width": 0.125,
        "batch_norm_momentum": 0.1, "test_items": 2000, "validation_items": 500,
        "public_items": 4000, "alignment_items": 1000, "local_epochs": 2,
    },
    "smoke": {
        "clients": 6, "clients_per_round": 6, "samples": 100, "rounds": 3, "width": 0.0625,
        "batch_norm_momentum": 0.1, "test_items": 500, "validation_items": 100,
        "public_items": 1000, "alignment_items": 256, "local_epochs": 2,
    },
}

# What else a task has in each, by the kind of its items.
OF_ITEMS: dict[str, dict[str, dict[str, Any]]] = {
    "image": {
        "smoke": {"architectures": ("cnn2-128-256", "cnn3-64-128-256", "cnn4-64-64-64-256")},
    },
    "text": {
        "paper": {"architectures": TEXT_ZOO, "validation_items": 5000},
        "narrow": {"architectures": TEXT_ZOO, "validation_items": 5000, "width": 0.25},
        # With the images' numbers, a thirtieth of the steps, every network answers with a blank whatever it reads.
        "laptop": {"architectures": TEXT_ZOO, "width": 0.25, "samples": 2000, "public_items": 10_000},
        "smoke": {"architectures": ("lstm1-128", "lstm2-128"), "clients": 4, "clients_per_round": 4, "width": 0.0625},
    },
    "other": {},
}
