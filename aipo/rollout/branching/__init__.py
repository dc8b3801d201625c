"""Rollouts that are forked from others of their group."""
