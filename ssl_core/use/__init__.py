"""What can be done with a trained encoder: open it by any of its names, embed images, hand it to other programs."""
