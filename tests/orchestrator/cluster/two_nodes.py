"""Two Ray nodes with a token on this machine, beside whatever else runs here."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "clusters" / "local-two-nodes.sh"


class TwoNodes:
    """clusters/local-two-nodes.sh, at free ports and in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        ports = []
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                free = stack.enter_context(socket.socket())
                free.bind(("127.0.0.1", 0))
                ports.append(str(free.getsockname()[1]))
        unset = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE")
        self.env = {key: value for key, value in os.environ.items() if key not in unset}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env |= {"STRATA_TWO_NODES": str(folder), "PORT": ports[0], "DASHBOARD_PORT": ports[1], "CPUS": "1"}
        self.env |= {"PATH": path, "PYTHONPATH": str(SCRIPT.parents[1])}

    def __enter__(self) -> "TwoNodes":
        said = self._script("start")
        self.env |= dict(word.split("=", 1) for word in said.removeprefix("export ").split())
        return self

    def __exit__(self, *_: object) -> None:
        self._script("stop")

    def kill_second(self) -> None:
        self._script("kill-second")

    def drain_second(self) -> None:
        """Tell the second node that it goes in a minute, as the notice of a spot machine does."""
        ask = "import ray; ray.init(log_to_driver=False); print(*(n['NodeID'] for n in ray.nodes() if n['Alive'] and "
        ask += "'node:__internal_head__' not in n['Resources']))"
        said = subprocess.run([sys.executable, "-c", ask], env=self.env, capture_output=True, text=True, check=True)
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--node-id", said.stdout.strip()]
        command += ["--address", self.env["RAY_ADDRESS"], "--deadline-remaining-seconds", "60"]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        subprocess.run(command, env=self.env, capture_output=True, check=True)

    def add_second(self) -> None:
        self._script("add-second")

    def _script(self, command: str) -> str:
        done = subprocess.run(
            ["bash", str(SCRIPT), command], env=self.env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def processes(self) -> dict[int, str]:
        """Of Ray, in this cluster: their titles."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(maxsplit=2) for line in listed.splitlines()]
        parents = {int(pid): int(parent) for pid, parent, _ in rows}
        raylets = {int(pid) for pid, _, args in rows if f"{self.folder}/ray/" in args and "raylet" in args}

        def ours(pid: int) -> bool:
            return pid in raylets or (pid in parents and parents[pid] != pid and ours(parents[pid]))

        return {int(pid): args for pid, _, args in rows if args.startswith("ray::") and ours(int(pid))}
