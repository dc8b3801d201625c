"""Training: the loop of a run, the trainer, its rows, checkpoints and ranks."""
