"""What a trained encoder is worth: which evaluators, where they run, what is kept, shown and told to MLflow."""
