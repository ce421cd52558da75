"""The index behind Ray finds what one in this process finds, whoever sends what when; and it is missed when it dies."""

import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from rich.console import Console

from orchestrator.index.actors import IndexLost, ShardedIndex, cpus_here, start_shards, threads_each
from orchestrator.runs.folder import new_run
from orchestrator.runs.record import pretrain
from ssl_core import recipes
from ssl_core.positives.neighbors import NeighborIndex
from ssl_core.positives.neighbors.partners import index_options
from ssl_core.schema.positives import PositivesConfig
from ssl_core.schema.scaling import ScalingConfig
from tests.orchestrator.conftest import TINY, ray_processes

IMAGES, DIM, BATCH, EPOCHS = 60, 8, 12, 4
POSITIVES = PositivesConfig(kind="adasim", window=2, top_k=4, tau=0.05)
SEED = 7


def steps_of(epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids and features of every step: features wander slowly, two images in five lie close to another."""
    generator = np.random.default_rng(0)
    base = generator.normal(size=(IMAGES, DIM)).astype(np.float32)
    base[: IMAGES // 5] = base[IMAGES // 5 : 2 * (IMAGES // 5)]
    features = base + 0.3 * np.random.default_rng(epoch).normal(size=base.shape).astype(np.float32)
    order = np.random.default_rng(100 + epoch).permutation(IMAGES).reshape(-1, BATCH)
    return [(ids, features[ids]) for ids in order]


def expected(index: NeighborIndex, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    for ids, features in steps_of(epoch):
        index.update(ids, features)
    index.end_epoch()
    return index.draw(POSITIVES.tau, SEED + epoch).partners, *index.lists()


@pytest.mark.parametrize(("shards", "world"), [(1, 3), (2, 2), (4, 1)])
def test_shards_ranks_and_order_of_arrival_change_nothing(ray_session, tmp_path: Path, shards: int, world: int):
    alone = NeighborIndex(IMAGES, DIM, **index_options(POSITIVES))
    actors = start_shards(POSITIVES, ScalingConfig(index_shards=shards, workers=world), IMAGES, DIM, tmp_path)
    sharded = ShardedIndex(actors, IMAGES)
    drawn = 0
    for epoch in range(EPOCHS):
        messages = [
            (step, rank, part_ids, part_features)
            for step, (ids, features) in enumerate(steps_of(epoch))
            for rank, (part_ids, part_features) in enumerate(
                zip(np.split(ids, world), np.split(features, world), strict=True)
            )
        ]
        random.Random(epoch).shuffle(messages)
        ray.get([actor.add.remote(*message) for message in messages for actor in actors])
        sharded.end_epoch(SEED + epoch)
        found, means = sharded.collect()
        partners, ids, similarities = expected(alone, epoch)
        np.testing.assert_array_equal(found.partners, partners)
        lists = [np.concatenate(part) for part in zip(*ray.get([a.lists.remote() for a in actors]), strict=True)]
        np.testing.assert_array_equal(lists[0], ids)
        np.testing.assert_array_equal(lists[1], similarities)
        assert 0 < means["spread"] < 1
        drawn += int((partners != np.arange(IMAGES)).sum())
    assert drawn > 0, "no partner was ever drawn: the test says nothing"
    assert len(list(tmp_path.glob("epoch_*.parquet"))) == EPOCHS
    for actor in actors:
        ray.kill(actor)


def test_a_saved_index_goes_on_with_another_number_of_shards(ray_session, tmp_path: Path):
    alone = NeighborIndex(IMAGES, DIM, **index_options(POSITIVES))
    results = {}
    for shards, epochs in ((2, (0, 1)), (3, (2, 3))):
        actors = start_shards(POSITIVES, ScalingConfig(index_shards=shards), IMAGES, DIM, tmp_path)
        index = ShardedIndex(actors, IMAGES)
        if epochs[0]:
            index.load(tmp_path, epochs[0], 0, SEED + epochs[0] - 1)
            np.testing.assert_array_equal(index.collect()[0].partners, results[epochs[0] - 1])
        for epoch in epochs:
            for ids, features in steps_of(epoch):
                index.send(ids, torch.from_numpy(features))
            index.end_epoch(SEED + epoch)
            results[epoch] = index.collect()[0].partners
            np.testing.assert_array_equal(results[epoch], expected(alone, epoch)[0])
        index.save(tmp_path, epochs[-1], 0)
        for actor in actors:
            ray.kill(actor)


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_index_saved_within_an_epoch_goes_on_with_another_number_of_shards(epoch, ray_session, tmp_path: Path):
    alone = NeighborIndex(IMAGES, DIM, **index_options(POSITIVES))
    for past in range(epoch):
        expected(alone, past)
    partners, near, similarities = expected(alone, epoch)
    done = 0
    for shards in (2, 3, 1):
        actors = start_shards(POSITIVES, ScalingConfig(index_shards=shards), IMAGES, DIM, tmp_path)
        index = ShardedIndex(actors, IMAGES)
        if not done:
            for past in range(epoch):
                for ids, features in steps_of(past):
                    index.send(ids, torch.from_numpy(features))
                index.end_epoch(SEED + past)
                index.collect()
                index.save(tmp_path, past + 1, 0)
        else:
            index.load(tmp_path, epoch, done, SEED + epoch - 1)
            if epoch:
                index.collect()
        steps = list(steps_of(epoch))
        for ids, features in steps[done : done + 2] if shards > 1 else steps[done:]:
            index.send(ids, torch.from_numpy(features))
        if shards > 1:
            done += 2
            index.settle()
            index.save(tmp_path, epoch, done)
        else:
            index.end_epoch(SEED + epoch)
            np.testing.assert_array_equal(index.collect()[0].partners, partners)
            lists = ray.get(actors[0].lists.remote())
            np.testing.assert_array_equal(lists[0], near)
            np.testing.assert_array_equal(lists[1], similarities)
        for actor in actors:
            ray.kill(actor)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="CPUs are not chosen here")
def test_shards_share_the_cpus_that_they_may_use(ray_session, tmp_path: Path):
    assert [threads_each(16, shards) for shards in (1, 2, 3, 16)] == [8, 4, 2, 1]
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cpus_here() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    actors = start_shards(POSITIVES, ScalingConfig(index_shards=2), IMAGES, DIM, tmp_path)
    threads = ray.get([actor.__ray_call__.remote(lambda shard: torch.get_num_threads()) for actor in actors])
    assert threads == [threads_each(cpus_here(), 2)] * 2
    for actor in actors:
        ray.kill(actor)


def _send_many(index: ShardedIndex, ids: np.ndarray, features: np.ndarray) -> None:
    for _ in range(20):
        index.send(ids, torch.from_numpy(features))


def test_a_dead_shard_is_noticed(ray_session, tmp_path: Path):
    actors = start_shards(POSITIVES, ScalingConfig(), IMAGES, DIM, tmp_path)
    index = ShardedIndex(actors, IMAGES)
    (ids, features), *_ = steps_of(0)
    index.send(ids, torch.from_numpy(features))
    ray.kill(actors[0])
    with pytest.raises(IndexLost):
        _send_many(index, ids, features)


class KillsTheIndex(Console):
    """A console that kills an index actor when the second epoch is shown."""

    killed = False

    def print(self, *objects, **options):
        super().print(*objects, **options)
        if not self.killed and any(str(item).startswith("epoch 2") for item in objects):
            os.kill(ray_processes("IndexShard")[0], signal.SIGKILL)
            self.killed = True


def test_a_run_that_loses_its_index_goes_on_from_the_checkpoint(ray_session, folders: Path, tmp_path: Path):
    overrides = [
        *TINY,
        f"data.train={folders / 'train'}",
        "optim.epochs=8",
        "scaling.index_shards=2",
        "scaling.cpus_per_worker=1",
        "positives.tau=0.05",
    ]
    config = recipes.load("small-adasim-sd-mocov3", overrides)
    whole = new_run(config, tmp_path / "whole")
    pretrain(whole, Console(quiet=True), started=0.0)

    with open(tmp_path / "printed.txt", "w+") as file:
        console = KillsTheIndex(file=file, width=200)
        summary = pretrain(new_run(config, tmp_path / "broken"), console, started=0.0)
        file.seek(0)
        printed = file.read()
    assert console.killed
    assert "an index actor is gone" in printed
    assert summary["status"] == "FINISHED"
    records = [json.loads(line) for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(9))
    assert any(record.get("positives/bootstrap_ratio") for record in records), "nothing was bootstrapped"
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
