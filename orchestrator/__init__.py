"""Where and how often `ssl_core` runs: Ray Train workers, checkpoints, MLflow, pictures, the command line."""

import os
from pathlib import Path

# Nobody is told what runs here: MLflow, Ray and the Hugging Face hub would each send usage figures to their makers.
# Said before any of them is imported, and inherited by all processes of a run; what the user has set stands.
SILENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
for _key, _value in SILENT.items():
    os.environ.setdefault(_key, _value)

# In a container whose user is not in its password file there may be no home, and MLflow cannot even be imported.
# The root is what Docker takes then: nobody else can write there, so that no file in it can be another user's.
try:
    Path.home()
except RuntimeError:
    os.environ["HOME"] = "/"
