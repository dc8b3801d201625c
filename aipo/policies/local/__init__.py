"""A policy sampled in this process: transformers with continuous batching."""
