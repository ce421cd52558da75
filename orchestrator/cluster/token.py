"""The user's token for Ray clusters, where Ray looks for one: in the environment, or in ~/.ray/auth_token."""

import os
import stat
from pathlib import Path

from ssl_core.errors import InputError

HINT = "set RAY_AUTH_TOKEN, or put it into ~/.ray/auth_token"


def in_environment() -> bool:
    """Whether the environment says one."""
    return bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"))


def has_token() -> bool:
    """Whether there is one.

    Raises:
        InputError: it lies in a file that others can read, or change: who has it, can run anything on the cluster.
    """
    if in_environment():
        return True
    try:
        file = Path.home() / ".ray" / "auth_token"
        mode = file.stat().st_mode
    except OSError:  # no such file
        return False
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"{file}: others can read this token, which lets them run anything there: chmod 600 {file}")
    return True
