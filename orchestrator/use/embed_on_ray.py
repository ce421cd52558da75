"""Images embedded by Ray Data: a pool of actors that hold the encoder, each shard's file written by one of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.runs.failures import cause_of
from ssl_core.errors import DataError, InputError
from ssl_core.files import as_path
from ssl_core.schema.run import RunConfig
from ssl_core.use.embed import About, Output, Told, write_shard

if TYPE_CHECKING:
    from orchestrator.use.embed import Wish


def embed_on_ray(wish: "Wish", config: RunConfig, output: Output, missing: Sequence[int], tell: Told) -> None:
    """Have the missing shards written by the cluster's workers, which see the images and the output's folder.

    Raises:
        InputError: the cluster has no room, or does not see them.
        WorkFailed: a worker failed.
    """
    import ray

    from orchestrator.cluster.connect import connected
    from orchestrator.cluster.room import worker_share
    from orchestrator.cluster.seen import check_seen
    from orchestrator.errors import WorkFailed

    with connected():
        share = worker_share(config.scaling)
        check_seen(output.folder, config.paths)
        context: Any = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        workers = min(wish.workers, len(missing))
        shards = ray.data.from_items([{"shard": shard} for shard in missing], override_num_blocks=len(missing))
        written: Any = shards.map_batches(
            Worker,
            batch_size=1,
            fn_constructor_args=(wish, str(output.file), output.about, share.cpus),
            num_cpus=share.cpus,
            num_gpus=share.gpus or None,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        try:
            for row in written.iter_rows():
                tell(int(row["images"]))
        except Exception as error:
            cause = cause_of(error)
            if isinstance(cause, InputError | DataError):
                raise type(cause)(str(cause)) from error
            raise WorkFailed(
                f"{type(cause).__name__}: {cause}\nwhat was embedded is kept; the same command goes on"
            ) from error


class Worker:
    """Holds the encoder and the images of a wish, and writes shards."""

    def __init__(self, wish: "Wish", file: str, about: About, threads: int):
        import torch

        from orchestrator.use.embed import open_wish
        from ssl_core.use.subject import own_device

        torch.set_num_threads(threads)
        self.subject, self.source, _ = open_wish(replace(wish, words=[*wish.words, "data.workers=0"]))
        self.subject.to(own_device())
        self.output = Output(as_path(file), about, shared=True)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Numbers of shards → how many images each has."""
        for shard in batch["shard"].tolist():
            write_shard(self.subject, self.source, self.output, shard, 0, lambda count: None)
        return {"images": np.array([len(self.output.about.span(shard)) for shard in batch["shard"].tolist()])}
