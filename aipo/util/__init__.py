"""Helpers that know nothing of AIPO: files, text, imports, processes, the event loop, tables, settings."""
