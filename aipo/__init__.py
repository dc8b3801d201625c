"""AIPO: train a language model to reason by letting it consult while it explores."""

__version__ = "0.1.0"
