"""Worker processes that run rollouts beside the main process."""
