"""What Strata uses of Ray's own, name by name: when Ray changes one, the test that fails says what it was for."""

import inspect
import re
from pathlib import Path

import pytest

from orchestrator.cluster import ray_private

ROOT = Path(__file__).parents[3]
PRIVATE = re.compile(
    r"ray\._private|ray\.train\._internal|ray\.train\.v2|ray\.tune\._|ray\.autoscaler\._private|\._raylet"
)


def changed(what: str) -> str:
    return f"Ray has changed: {what}; see orchestrator/cluster/ray_private.py, and raise the bound in pyproject.toml"


def test_no_other_file_uses_what_ray_does_not_promise() -> None:
    files = [file for folder in ("orchestrator", "ssl_core") for file in (ROOT / folder).rglob("*.py")]
    others = [file for file in files if file.name != "ray_private.py" and PRIVATE.search(file.read_text())]
    assert others == []
    assert PRIVATE.search(inspect.getsource(ray_private))


def test_rays_version_is_bounded() -> None:
    assert re.search(r'"ray\[[a-z,]+\]>=[\d.]+,<[\d.]+"', (ROOT / "pyproject.toml").read_text())


def test_a_ray_of_our_own_can_be_killed() -> None:
    from ray._private import node, worker

    assert hasattr(worker, "_global_node"), changed("where a process keeps the Ray that it started")
    parameters = inspect.signature(node.Node.kill_all_processes).parameters
    assert {"check_alive", "allow_graceful"} <= set(parameters), changed("how its processes are killed")


def test_a_process_knows_whether_it_has_started_the_ray(ray_session: None) -> None:
    assert ray_private.runs_own_ray(), changed("how the processes of a Ray of one's own are called")


def test_the_loopback_is_asked_for() -> None:
    from ray._private import ray_constants, services

    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool), changed("the switch for the loopback's address")
    assert "ENABLE_RAY_CLUSTER" in inspect.getsource(services), changed("nobody reads the switch any more")


def test_cpus_are_counted_as_ray_counts_them() -> None:
    assert ray_private.usable_cpus() >= 1, changed("how it counts CPUs")


def test_the_state_of_a_cluster_can_be_read(ray_session: None) -> None:
    import ray

    assert ray_private.autoscaler_groups() == [], changed("what it says of an autoscaler's configuration")
    assert ray_private.leaving_nodes() == set(), changed("what it says of nodes that are told to go")
    free = ray_private.free_resources()
    (node,) = ray.nodes()
    assert list(free) == [node["NodeID"]], changed("what it says of free resources by node")
    assert 0 < free[node["NodeID"]]["CPU"] <= node["Resources"]["CPU"]


def test_ray_trains_helpers_can_be_left_out() -> None:
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    source = inspect.getsource(DataParallelTrainer)
    for name in ray_private.UNUSED_CALLBACKS:
        assert name in source, changed(f"its trainer has no {name} any more")
    assert "_create_default_callbacks" in vars(ray_private.trainer_class()), changed("how its trainer gets its helpers")
    assert "self._create_default_callbacks()" in source, changed("how its trainer gets its helpers")


def test_a_trials_session_can_be_finished() -> None:
    from ray.train._internal import session

    assert session.get_session() is None, changed("what a process outside of any trial has for a session")
    assert "timeout" in inspect.signature(session._TrainSession.finish).parameters, changed("how a session is finished")
    assert "training_started" in inspect.getsource(session._TrainSession), changed("how a session says that it began")


def test_rounds_of_population_based_training_can_be_watched() -> None:
    scheduler = ray_private.synchronous_pbt(
        time_attr="epoch", metric="loss", mode="min", hyperparam_mutations={"lr": [0.1, 0.2]}
    )
    for name in ("_trial_state", "_time_attr", "_next_perturbation_sync", "_perturbation_interval"):
        assert hasattr(scheduler, name), changed(f"its population-based training has no {name} any more")


def test_loader_processes_know_a_workers_main_module() -> None:
    from importlib.util import find_spec

    assert find_spec(ray_private.WORKER_MODULE), changed("a worker's main module has another name")


@pytest.mark.parametrize("name", ["kill_own_ray", "stay_on_loopback", "finish_trial"])
def test_each_says_what_it_is_for(name: str) -> None:
    assert len(getattr(ray_private, name).__doc__) > 40
