"""What is measured of every layer, while training and after: `base` runs evaluators, each has a file."""
