"""How work that has started ends badly."""


class WorkFailed(RuntimeError):
    """The run started and did not end well; what was done so far is kept."""
