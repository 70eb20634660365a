"""Sizes of functions: by the architecture, and enough, measured in a process that does the Steps."""

import subprocess
import sys

import pytest

from faas.cluster.resources import aggregator_allotment, client_allotment, footprint, worker_memory
from faas.cluster.values import Most, load_values
from kdlib.errors import KdlibError
from kdlib.learning.models import work
from kdlib.settings.architectures import ZOO
from kdlib.settings.experiment import make_experiment
from kdlib.settings.task import built_in, load_task

VALUES = load_values()

# As a function does: the libraries of one, and then every Step of its subject, whose inputs lie in the run's store.
PEAK = """
import re, sys
from pathlib import Path
import jwt, starlette.applications, uvicorn
import kdlib.store.s3
from kdlib.invoke.perform import perform
from kdlib.invoke.steps import Step
from kdlib.runs.run import load
run = load(sys.argv[1])
for step in sys.argv[3:]:
    perform(run.experiment, run.store, Step(step, 1, sys.argv[2]))
# Not getrusage's: that one begins with what the process that started this one has.
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def peak(folder, subject, *steps):
    """MiB."""
    done = subprocess.run([sys.executable, "-c", PEAK, folder, subject, *steps], capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_footprint_is_the_models():
    # By hand, of 28 x 28: every output of a convolution takes its kernel times the input channels; then the last layer.
    experiment = make_experiment("digits", "alone", 1, profile="paper")
    found = footprint(experiment, "cnn2-128-256")
    first, second, classes = 28**2 * 128, 13**2 * 256, 6
    assert work(experiment, "cnn2-128-256") == first * 9 + second * 128 * 9 + second * classes
    assert found.weights == 4 * (128 * 10 + 256 * (128 * 9 + 1) + 4 * (128 + 256) + second * classes) + 2 * 8


@pytest.mark.parametrize("strategy", ["fedmd", "feddf"])
@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_more_work_never_gets_less(strategy, profile):
    experiment = make_experiment("mnist", strategy, 1, profile=profile)
    by_work = sorted(experiment.architectures, key=lambda name: work(experiment, name))
    found = [client_allotment(experiment, name, VALUES.client) for name in by_work]
    assert [one.cpu for one in found] == sorted(one.cpu for one in found) and found[0].cpu < found[-1].cpu
    assert [one.most_cpu for one in found] == sorted(one.most_cpu for one in found)
    if profile != "smoke":  # whose networks are all so small that the libraries are what counts
        assert min(one.memory for one in found) < max(one.memory for one in found)
    assert all(one.cpu <= one.most_cpu and one.memory == one.most_memory for one in found)


@pytest.mark.parametrize("task", built_in())
def test_every_built_in_task_has_sizes_within_the_papers(task):
    alpha = None if load_task(task).by_owners else 1
    experiment = make_experiment(task, "fedmd", alpha, profile="paper")
    for index in range(len(experiment.architectures)):
        given = client_allotment(experiment, f"client-{index:04}", VALUES.client)
        assert 512 < given.memory <= 4096 and 0 < given.cpu <= given.most_cpu <= 2
    assert aggregator_allotment(experiment, VALUES.aggregator).most_memory == 16 * 1024


def test_the_measured_peak_fits_and_is_at_least_half_of_what_is_given(smoke):
    """Peaks of real processes: of a client of the largest network, and of an aggregator that pre-trains it."""
    ran = smoke("fedmd", keep=True, clients=1, rounds=1, width=0.125, architectures=ZOO[1:2], test_items=40,
                public_items=300, pretrain_epochs=1, transfer_epochs=1)
    given = client_allotment(ran.experiment, "client-0000", VALUES.client).memory
    steps = ("transfer", "communicate", "digest", "revisit", "evaluate")
    assert given / 2 < peak(ran.folder, "client-0000", *steps) < given
    given = aggregator_allotment(ran.experiment, VALUES.aggregator).memory
    assert given / 2 < peak(ran.folder, ZOO[1], "pretrain") < given


def test_what_does_not_fit_is_told_with_what_would_help():
    experiment = make_experiment("digits", "fedmd", 1, profile="paper", digest_batch=2048)
    with pytest.raises(KdlibError, match=r"client of cnn2-128-512 needs \d+ MiB, and may have 4096; allowed"):
        client_allotment(experiment, "client-0001", VALUES.client)
    experiment = make_experiment("digits", "fedmd", 1, profile="smoke", threads=4)
    with pytest.raises(KdlibError, match="client of cnn2-128-256 computes with 4 threads, and may have 2 vCPU"):
        client_allotment(experiment, "client-0000", VALUES.client)
    with pytest.raises(KdlibError, match="an aggregator needs"):
        aggregator_allotment(make_experiment("digits", "feddf", 1, profile="paper"), Most(cpu=6, memory=1))


def test_overcommitted_cores_are_kept_for_nobody():
    experiment = make_experiment("digits", "fedmd", 1, profile="laptop")
    one, half = (client_allotment(experiment, "client-0001", VALUES.client, factor) for factor in (1, 2))
    assert (one.cpu, half.cpu, one.most_cpu) == (1, 0.5, half.most_cpu)


def test_narrow_networks_ask_for_less_than_a_core():
    found = {}
    for profile in ("smoke", "laptop", "paper"):
        experiment = make_experiment("digits", "feddf", 1, profile=profile)
        clients = [client_allotment(experiment, name, VALUES.client).cpu for name in experiment.client_names[:6]]
        found[profile] = max(clients), aggregator_allotment(experiment, VALUES.aggregator).cpu
    assert found == {"smoke": (0.25, 0.25), "laptop": (1, 1), "paper": (1, 1)}


def test_a_ray_worker_has_room_for_a_step_on_each_core():
    experiment = make_experiment("digits", "fedmd", 1, profile="paper")
    sizes = [worker_memory(experiment, cpus) for cpus in (1, 2, 4)]
    assert sizes == sorted(sizes) and sizes[2] > 2.5 * sizes[0]
