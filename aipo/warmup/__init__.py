"""Warm-up: a teacher shows a policy how to consult, and the policy learns it by supervised training."""
