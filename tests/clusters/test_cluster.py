"""A real cluster of two Ray nodes, each with an address of its own on the loopback, that loses one in mid-stage."""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from kdlib.invoke import ray as invoke_ray
from kdlib.invoke.perform import perform
from kdlib.invoke.ray import Ray, ray  # which tells Ray a few things before it is imported
from kdlib.runs import runner
from kdlib.settings.experiment import make_experiment

FEW = {"rounds": 2, "samples": 40, "public_items": 200, "alignment_items": 64, "test_items": 100}
FEDMD = FEW | {"revisit_epochs": 1, "pretrain_epochs": 1, "transfer_epochs": 1}
FEDDF = FEW | {"local_epochs": 1, "distil_batches": 4, "score_every": 2}
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_log_monitor": False}
# A frozen node is given up after about 7 seconds, not 65.
HEALTH = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster():
    """Its first node. Ray's folder lies below /tmp, as a socket's path has 107 bytes at most."""
    from ray.cluster_utils import Cluster

    before, folder = below(), tempfile.mkdtemp(prefix="kdlib-", dir="/tmp")
    nodes = Cluster()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_TMPDIR", folder)
            add_node(nodes, "127.0.0.2", include_dashboard=False, no_monitor=True, _system_config=HEALTH)
            yield nodes
            started = below() - before
            nodes.shutdown()
            assert all_end(started)
    finally:
        end(below() - before)  # of a start that failed
        shutil.rmtree(folder)


def add_node(cluster, address, **more):
    """Ray's own processes give each other 15 seconds to start; a busy machine takes more, so this tries three times."""
    for last in (False, False, True):
        with contextlib.nullcontext() if last else contextlib.suppress(Exception):
            return cluster.add_node(**NODE, node_ip_address=address, **more)


def below():
    return set(psutil.Process().children(recursive=True))


def all_end(processes):
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not alive


def end(processes):
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def loses_its_node(lost, stage, doomed, place):
    """A `perform` that, in `stage` on the node `doomed`, does its work and then has `lost` happen to all of the node.

    Steps on the other node wait for that, so that the one is sure to get a Step.
    """

    def carry_out(experiment, store, step):
        there = Path(place, "lost")
        parts = perform(experiment, store, step)
        if step[:2] == stage and ray.get_runtime_context().get_node_id() == doomed:
            raylet = psutil.Process(os.getppid())
            others = [one for one in raylet.children() if one.pid != os.getpid()]
            there.write_text(step.subject)
            for process in (raylet, *others, psutil.Process()):
                getattr(process, lost)()
        while step[:2] == stage and not there.exists():
            time.sleep(0.05)
        return parts

    return carry_out


@pytest.mark.parametrize(("strategy", "settings", "stage", "lost"), [
    ("fedmd", FEDMD, ("revisit", 1), "kill"),
    ("feddf", FEDDF, ("train", 2), "suspend"),
], ids=["fedmd, a node killed", "feddf, a node fallen silent"])
def test_a_node_lost_in_mid_stage_changes_no_byte(strategy, settings, stage, lost, cluster, tmp_path, monkeypatch,
                                                  caplog):
    monkeypatch.setattr(invoke_ray, "QUIET", 1.0)
    experiment = make_experiment("digits", strategy, 1.0, profile="smoke", **settings)
    inline = runner.run(experiment, tmp_path / "inline", progress=False)
    second = add_node(cluster, "127.0.0.3")
    raylet = psutil.Process(second.all_processes["raylet"][0].process.pid)
    its = {raylet}
    invoker = Ray(cluster.address, perform=loses_its_node(lost, stage, second.node_id, tmp_path))
    try:
        invoker.start(1)
        assert {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]} == {"127.0.0.2", "127.0.0.3"}
        its.update(raylet.children())
        the_run = runner.run(experiment, tmp_path / "ray", progress=False, invoker=invoker)
    finally:
        its.update(raylet.children())
        end(its)  # what is frozen cannot be asked to
        cluster.remove_node(second, allow_graceful=False)
        invoker.close()
    assert all_end(its)
    subject = (tmp_path / "lost").read_text()
    assert the_run.result["final_bytes"] == inline.result["final_bytes"]
    steps = [step for record in the_run.records() for step in record.done]
    assert len(set(steps)) == len(steps) == len(inline.steps)
    assert (*stage, subject) in steps, "the Step that went down with its node was carried out again"
    assert (lost == "suspend") == ("lost 1 of its nodes; what was out is sent again" in caplog.text)
