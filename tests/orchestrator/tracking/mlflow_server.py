"""A real MLflow server that can be killed, can hang, and come back at the same address."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request


class MlflowServer:
    """`mlflow server` on a store."""

    def __init__(self, store: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._store = store
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._store]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        if self._store.startswith("sqlite:///"):
            files = os.path.join(os.path.dirname(self._store.removeprefix("sqlite:///")), "artifacts")
            command += ["--artifacts-destination", files]
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=null, stderr=null, start_new_session=True)
        deadline = time.monotonic() + 90
        while not self._answers():
            assert self._process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.25)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
        except OSError:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        """To all of its processes: SIGSTOP lets it hang, SIGCONT go on."""
        os.killpg(self._process.pid, number)

    @property
    def runs(self) -> bool:
        return self._process is not None

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait(timeout=20)
            self._process = None
