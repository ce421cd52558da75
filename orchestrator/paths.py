"""Where things lie that nobody has given a place."""

from pathlib import Path

RUNS = Path("strata-runs")
