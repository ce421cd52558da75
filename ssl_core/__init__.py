"""Self-distilled pretraining of vision encoders: methods, data, evaluation and the training loop.

A library without Ray or MLflow: it trains in a plain Python process, a notebook, a test, or under
any `torch.distributed` process group. Where and how often it runs is the `orchestrator`'s business.
"""
