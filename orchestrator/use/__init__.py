"""What is done with a trained encoder besides measuring it: handed to other programs, images embedded with it."""
