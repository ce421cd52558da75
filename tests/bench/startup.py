"""From the command to the first training step: `strata pretrain` against the least that Ray Train takes.

The floor is a Ray Train run whose one worker imports torch and timm, and does nothing. Both start from
nothing: a fresh process, a Ray instance of its own, a fresh folder (and MLflow store).

    python tests/bench/startup.py

3 rounds take about 3 minutes on two cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLOOR = """
import sys, time, logging, ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
def work(config):
    import time, timm, torch
    open(config["file"], "w").write(str(time.time()))
ray.init(log_to_driver=False, logging_level=logging.ERROR)
TorchTrainer(work, train_loop_config={"file": sys.argv[1]}, run_config=RunConfig(storage_path=sys.argv[2]),
             scaling_config=ScalingConfig(num_workers=1)).fit()
"""


def run(command: list[str], folder: Path) -> float:
    """Run to the end in `folder`; when it began."""
    began = time.time()
    env = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    floors, ours = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            began = run([sys.executable, "-c", FLOOR, str(folder / "time"), str(folder / "ray")], folder)
            floors.append(float((folder / "time").read_text()) - began)
            short = ["optim.epochs=1", "optim.warmup_epochs=0", "data.limit=128"]
            run([sys.executable, "-m", "orchestrator", "pretrain", *short, "--output", "run"], folder)
            ours.append(json.loads((folder / "run" / "summary.json").read_text())["startup_seconds"])
        print(f"floor {floors[-1]:.1f} s   strata {ours[-1]:.1f} s", flush=True)
    floor, strata = statistics.median(floors), statistics.median(ours)
    print(f"median: floor {floor:.1f} s, strata {strata:.1f} s, ratio {strata / floor:.2f}")


if __name__ == "__main__":
    main()
