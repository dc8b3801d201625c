"""The questions of `aipo replay`, a file for each command; `rerun.py` has `check`, `score` and `graph`."""
