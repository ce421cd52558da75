"""What the nodes of a cluster see of a run's folder and images."""

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.cluster.connect import alive_nodes
from ssl_core.errors import InputError
from ssl_core.files import as_path, is_local


def on_each_node(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What `function(*arguments)` returns on every node of the connected cluster, by the node's address.

    A node that was just lost, and that Ray still takes for one of the cluster's, is left out.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    answers = {}
    for node in alive_nodes():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"
        answers[name] = task.options(scheduling_strategy=there).remote(*arguments)
    found = {}
    for name, answer in answers.items():
        try:
            found[name] = ray.get(answer)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError:
            continue
    return found


def check_seen(output: Path, paths: Sequence[str]) -> None:
    """Whether every node of the connected cluster sees a run's folder and its images' `paths` as this one does.

    Raises:
        InputError: which nodes do not.
    """
    if len(alive_nodes()) == 1:
        return
    output.mkdir(parents=True, exist_ok=True)
    marker = output / f".seen-{secrets.token_hex(4)}"
    marker.touch()
    here = [path for path in map(as_path, paths) if path.exists()]
    try:
        for node, missing in on_each_node(_unseen, [marker, *here]).items():
            if marker in missing:
                raise InputError(
                    f"--output: node {node} does not see {output}, or cannot write there; give a folder that all nodes "
                    "share (NFS, EFS, Filestore, …)"
                )
            if missing:
                raise InputError(f"node {node} does not see {missing[0]}; put images and weights where all nodes do")
    finally:
        marker.unlink()


def _unseen(paths: list[Path]) -> list[Path]:
    marker = paths[0]
    unwritable = is_local(marker) and not os.access(marker.parent, os.W_OK)
    return [path for path in paths if not path.exists() or (path is marker and unwritable)]
