"""The errors that people are meant to read."""


class InputError(ValueError):
    """What the user gave cannot work: a key, a file, a combination. Raised before work starts."""


class DataError(RuntimeError):
    """The images turned out to be unusable while training (too many broken ones)."""


class TrainingDiverged(RuntimeError):
    """The loss or its gradient stopped being finite."""


class Stopped(RuntimeError):
    """A rank was asked to stop; the run can go on from where it stood."""
