"""Which images are near which, by inner product of their features."""
