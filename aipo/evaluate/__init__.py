"""Evaluation: pass@k of a policy with confidence intervals, and the statistics of comparisons."""
