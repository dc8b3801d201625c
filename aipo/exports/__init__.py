"""What `aipo export` writes: one file per format, and how a trace becomes a conversation."""
