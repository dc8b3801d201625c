"""AIPO: train a language model to reason by letting it consult while it explores."""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    # `python -m aipo.cli` looks into the working directory first, where a user's `random.py` may be.
    sys.path.append(sys.path.pop(0))

from aipo.util.threads import wait_briefly

__version__ = "0.1.0"

wait_briefly()  # here, because nothing of ours may import torch before: commands, workers, ranks, notebooks
