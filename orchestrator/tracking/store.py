"""Which MLflow store is in use, and how it is reached."""

import logging
import os
import sqlite3
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote

from orchestrator.paths import RUNS
from orchestrator.tracking.faults import StoreAway, words_of
from ssl_core.errors import InputError
from ssl_core.files import lock
from ssl_core.schema.scaling import TrackingConfig
from ssl_core.schema.urls import without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE, SQLITE_QUOTED = "sqlite:///", "sqlite+pysqlite:///"
PATIENCE = 10.0  # seconds in which a server has to answer

# A server that is away must not hold anything up for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


@dataclass(frozen=True)
class Store:
    """An MLflow store.

    Attributes:
        uri: as it is shown and written down, without credentials.
        connection: the same with them.
    """

    uri: str
    connection: str = field(repr=False)

    @staticmethod
    def of(config: TrackingConfig | None = None) -> "Store":
        """The store in use: `tracking.uri`, MLFLOW_TRACKING_URI, or SQLite in strata-runs/.

        A `tracking.uri` that was read from a file has no credentials; MLFLOW_TRACKING_URI may have those of its server.
        """
        own = os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri((RUNS / "mlflow.db").absolute())
        given = (config.connection if config is not None else None) or own
        connection = _as_path(own if given == without_credentials(own) else given)
        return Store(without_credentials(connection), connection)

    @property
    def file(self) -> Path | None:
        """The file of a SQLite store; None for a server."""
        return sqlite_file(self.uri)

    def look(self) -> None:
        """See that the store can be used, as far as that can be told at once; nothing is made or changed.

        Raises:
            StoreAway: it cannot.
        """
        try:
            if self.file is not None:
                _look_at_file(self.file)
            elif self.uri.startswith(("http://", "https://")):
                _look_at_server(self.uri)
            else:
                self.connect()
        except (OSError, ValueError, sqlite3.Error) as error:
            raise StoreAway(f"MLflow at {self.uri} does not answer: {words_of(error)}") from error

    def connect(self) -> "MlflowClient":
        """A client of the store, which is made if need be.

        Raises:
            StoreAway: it cannot be reached.
        """
        from mlflow import MlflowClient

        quiet()
        try:
            if self.file is None:
                return MlflowClient(tracking_uri=self.connection)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with _alone(self.file.parent):
                _look_at_file(self.file)  # MLflow itself would try for minutes
                return MlflowClient(tracking_uri=self.connection)
        except Exception as error:  # of MLflow, SQLAlchemy, a driver of a database
            raise StoreAway(f"MLflow at {self.uri} does not answer: {words_of(error)}") from error


def sqlite_uri(file: Path) -> str:
    """The URI of a SQLite store.

    Raises:
        InputError: there is none for such a path.
    """
    text = str(file)
    if not set("%?") & set(text):
        return f"{SQLITE}{text}"
    uri = f"{SQLITE_QUOTED}{quote(text, safe='/ #@:+,;=&!$()[]~')}"  # MLflow would make folders of quotes in the other
    if sqlite_file(uri) != file:
        raise InputError(f"tracking.uri: no SQLite store can lie at {file}, because of % or ? in its path")
    return uri


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for a server."""
    if not uri.startswith((SQLITE, SQLITE_QUOTED)):
        return None
    if not set("%?") & set(uri):
        return Path(uri.partition(":///")[2])
    from sqlalchemy import make_url

    return Path(make_url(uri).database or "")


def quiet() -> None:
    """MLflow's log repeats with tracebacks what its exceptions say; creating a store is no news."""
    for module in ("mlflow", "alembic"):
        logging.getLogger(module).setLevel(logging.CRITICAL)


def _as_path(uri: str) -> str:
    """A SQLite URI in which a `?` belongs to the path, since no options follow it, as one that says so."""
    path, _, options = uri.removeprefix(SQLITE).partition("?")
    if not uri.startswith(SQLITE) or not options or parse_qsl(options):
        return uri
    return sqlite_uri(Path(f"{path}?{options}"))


def _look_at_file(file: Path) -> None:
    """Raises OSError, sqlite3.Error: no store is there, and none can be made."""
    if not file.exists():
        existing = next(place for place in file.absolute().parents if place.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise PermissionError(f"{existing} is no folder that can be written to")
    elif not file.is_file() or not os.access(file, os.R_OK | os.W_OK):
        raise PermissionError(f"{file} is no file that can be read and written")
    else:
        database = sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=ro", timeout=PATIENCE, uri=True)
        try:
            database.execute("SELECT name FROM sqlite_master").fetchone()
        finally:
            database.close()


def _look_at_server(uri: str) -> None:
    """Raises OSError, ValueError: nobody answers there. What the answer is worth is seen when there is more to ask."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        pass
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # certificates are MLflow's business
            raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other process in at the same time: two that make one store would spoil each other's tables."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)
