"""What is known of the software that runs here, for whoever wants to reproduce a figure."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("strata-ssl", "torch", "torchvision", "timm", "ray", "mlflow", "pyarrow", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Of this program, Python, and the packages that a result depends on; nothing is imported for it."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_revision() -> str:
    """The revision of the working directory, with `+` if files were changed; empty outside a repository."""
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
