"""A search: its settings, its steps, its loop, its answer, and the training of the networks it found."""
