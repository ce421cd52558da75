"""Where and how often `ssl_core` runs: Ray Train workers, checkpoints, MLflow, pictures, the command line."""
