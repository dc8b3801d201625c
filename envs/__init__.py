"""Environments: one folder for each family of tasks."""
