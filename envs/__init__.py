"""Environments: one file per task family."""
