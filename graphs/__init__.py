"""Graphs and prompts: the room that users edit."""
