"""What workers get of a cluster, and whether they fit: decisions on nodes that are named by their resources."""

import pytest

from orchestrator.cluster.room import WorkerShare, capacity, check_fit, fair_cpus, worker_share
from ssl_core.errors import InputError
from ssl_core.schema.scaling import ScalingConfig

LAPTOP = [{"CPU": 8.0}]
PAIR = [{"CPU": 10.0}, {"CPU": 6.0}]
GPUS = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}]


@pytest.mark.parametrize(
    ("share", "nodes", "fits"),
    [
        (WorkerShare(2, 0.0), LAPTOP, 4),
        (WorkerShare(3, 0.0), LAPTOP, 2),
        (WorkerShare(4, 0.0), PAIR, 3),
        (WorkerShare(9, 0.0), PAIR, 1),
        (WorkerShare(11, 0.0), PAIR, 0),
        (WorkerShare(4, 1.0), GPUS, 8),
        (WorkerShare(8, 1.0), GPUS, 4),
        (WorkerShare(1, 0.5), GPUS, 16),
        (WorkerShare(1, 1.0), LAPTOP, 0),
        (WorkerShare(1, 0.0), [], 0),
    ],
)
def test_a_node_holds_what_it_has_of_everything(share: WorkerShare, nodes: list, fits: int) -> None:
    assert capacity(share, nodes) == fits


@pytest.mark.parametrize(
    ("scaling", "share", "indexed", "text"),
    [
        ({"workers": 5}, WorkerShare(4, 0.0), False, r"scaling\.workers: 5 workers of 4 CPUs each do not fit.*hold 3"),
        ({"workers": 1}, WorkerShare(1, 1.0), False, r"1 workers of 1 CPUs and 1 GPUs each do not fit"),
        ({"workers": [4, 8]}, WorkerShare(4, 0.0), False, r"4 workers"),
        ({"index_gpus": 0.5}, WorkerShare(1, 0.0), True, r"scaling\.index_gpus: 1 index actor\(s\) with 0\.5 GPUs"),
    ],
)
def test_what_does_not_fit_is_said(scaling: dict, share: WorkerShare, indexed: bool, text: str) -> None:
    with pytest.raises(InputError, match=text):
        check_fit(ScalingConfig(**scaling), share, indexed, PAIR)


def test_what_fits_is_let_in() -> None:
    check_fit(ScalingConfig(workers=3), WorkerShare(4, 0.0), False, PAIR)
    check_fit(ScalingConfig(workers=8), WorkerShare(4, 1.0), False, GPUS)
    check_fit(ScalingConfig(workers=8, index_gpus=0.1), WorkerShare(4, 0.9), True, GPUS)
    check_fit(ScalingConfig(workers=[3, 9]), WorkerShare(4, 0.0), False, PAIR)
    check_fit(ScalingConfig(workers=1, index_gpus=0.5), WorkerShare(1, 0.0), False, PAIR)


@pytest.mark.parametrize(
    ("gpus", "workers", "nodes", "cpus"),
    [
        (0.0, 2, LAPTOP, 4),
        (0.0, 3, LAPTOP, 2),
        (0.0, 2, PAIR, 6),  # not (10 + 6) / 2 = 8, which one of the two does not have
        (0.0, 3, PAIR, 5),
        (1.0, 8, [{"CPU": 16.0}, {"CPU": 64.0, "GPU": 8.0}], 8),  # a head without GPUs has no part in it
        (1.0, 8, [{"CPU": 32.0, "GPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 8.0}], 8),
        (0.0, 99, LAPTOP, 1),  # of an elastic run as many as there is room for
        (0.0, 1, [], 1),
    ],
)
def test_a_fair_share_is_the_most_with_which_all_fit(gpus: float, workers: int, nodes: list, cpus: int) -> None:
    assert fair_cpus(gpus, workers, nodes) == cpus


def test_workers_share_the_cpus_that_are_there(ray_session: None) -> None:
    import ray

    cpus = int(ray.cluster_resources()["CPU"])
    assert worker_share(ScalingConfig(workers=1)) == WorkerShare(cpus, 0.0)
    assert worker_share(ScalingConfig(workers=cpus)) == WorkerShare(1, 0.0)
    assert worker_share(ScalingConfig(workers=1, cpus_per_worker=1)) == WorkerShare(1, 0.0)
    with pytest.raises(InputError, match=r"scaling\.workers"):
        worker_share(ScalingConfig(workers=cpus + 1))
