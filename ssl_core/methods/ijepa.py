"""I-JEPA (Assran et al., 2023): predict the EMA teacher's last layer for hidden blocks of the image."""

from ssl_core.methods.masked import LatentTargets


class IJEPA(LatentTargets):
    """As the skeleton says: one target, the last layer."""
