"""All that Strata uses of Ray which Ray does not promise to keep: here alone, a function for each, each with a test.

`tests/orchestrator/cluster/test_ray_private.py` fails with a sentence when Ray changes one; pyproject.toml bounds Ray's
version for as long as nobody has looked.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

WORKER_MODULE = "ray._private.workers.default_worker"
"""A worker's main module, which a server of loader processes imports once rather than each of them anew."""
UNUSED_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")
"""Ray Train's helpers for what is not used here; each would start processes, and be waited for."""


def kill_own_ray() -> None:
    """End the processes of the Ray that this process has started. `ray.shutdown` would ask them, and wait."""
    from ray._private import worker

    node = worker._global_node
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=False)


def runs_own_ray() -> bool:
    """Whether this process has started the Ray that it is connected to, and sees its processes end."""
    from ray._private import worker

    node = worker._global_node
    return node is not None and "gcs_server" in node.all_processes


def lost_processes() -> list[str]:
    """Of the Ray that this process has started, those without which it is none, and which have ended."""
    from ray._private import worker

    node = worker._global_node
    dead: list = [] if node is None else node.dead_processes()
    return [kind for kind, _ in dead if kind in ("gcs_server", "raylet")]


def stay_on_loopback() -> None:
    """Let a Ray that is started next have the loopback's address. The variable for it is read when Ray is imported."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False


def usable_cpus() -> int:
    """CPUs that a Ray on this machine would count: of a container those that it may use. It is not running yet."""
    from ray._private.utils import get_num_cpus

    return int(get_num_cpus())


def autoscaler_groups() -> list[Any]:
    """The kinds of nodes that the connected cluster's autoscaler can add: `name`, `max_count`, `resources`.

    The autoscaler's public interface asks for nodes, and does not say which there could be.
    """
    from ray._private.state import state

    config = state.get_cluster_config()
    return list(config.node_group_configs) if config else []


def leaving_nodes() -> set[str]:
    """Ids of the connected cluster's nodes that were told to go: a spot machine's notice, an idle node.

    `ray.nodes()` lists them as alive like any other.
    """
    from ray._private.state import state

    return set(state.get_draining_nodes())


def free_resources() -> dict[str, dict[str, float]]:
    """What is free on each node of the connected cluster, by id; `ray.available_resources` adds all up."""
    from ray._private.state import available_resources_per_node

    return available_resources_per_node()


def trainer_class() -> type:
    """Ray Train's trainer, without the helpers that nothing here needs.

    The workers join one another themselves: Ray's public `TorchTrainer` imports torch into one process more to let
    them, and listens on all of a machine's addresses.
    """
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    class Trainer(DataParallelTrainer):
        def _create_default_callbacks(self) -> list:
            return [c for c in super()._create_default_callbacks() if type(c).__name__ not in UNUSED_CALLBACKS]

    return Trainer


def finish_trial(timeout: float) -> None:
    """Let the function of the Tune trial in this process end by itself, before its process is taken away."""
    from ray.train._internal.session import get_session

    session = get_session()
    if session is not None and session.training_started:
        session.finish(timeout=timeout)


def synchronous_pbt(**options: Any) -> "TrialScheduler":
    """Population-based training in rounds: who takes over from whom does not depend on who was faster.

    Ray's own waits for ever when the last trial that a round waits for fails or is stopped: here the others go on
    without that round.
    """
    from ray.tune.schedulers import PopulationBasedTraining

    class SynchronousPBT(PopulationBasedTraining):
        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            super().on_trial_error(tune_controller, trial)
            self._go_on_without(trial)

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
            super().on_trial_complete(tune_controller, trial, result)
            self._go_on_without(trial)

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
            for other, state in self._trial_state.items():
                if other.is_finished():  # Ray counts the failed ones among those to wait for
                    state.last_train_time = max(state.last_train_time, result[self._time_attr])
            return super().on_trial_result(tune_controller, trial, result)

        def _go_on_without(self, gone: Any) -> None:
            """Let the others go on if they were waiting for `gone` alone."""
            reached = [s.last_train_time for t, s in self._trial_state.items() if t is not gone and not t.is_finished()]
            if reached and min(reached) >= self._next_perturbation_sync:
                self._next_perturbation_sync = min(reached) + self._perturbation_interval

    return SynchronousPBT(synch=True, **options)
