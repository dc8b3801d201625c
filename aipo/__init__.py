"""AIPO: train a language model to reason by letting it consult while it explores."""

from aipo.util.threads import wait_briefly

__version__ = "0.1.0"

wait_briefly()  # here, because nothing of ours may import torch before: commands, workers, ranks, notebooks
