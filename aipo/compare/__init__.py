"""Compares methods: runs a matrix of arms × seeds, judges the differences, writes tables, charts and one page."""
