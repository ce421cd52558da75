"""Images: where they come from (`sources`), what is made of them (`views`), in which order (`loading`)."""
