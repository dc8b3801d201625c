"""What can be asked of stored traces: each question is a file here, on top of `aipo.replay`."""
