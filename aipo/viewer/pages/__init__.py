"""The pages of the viewer, one module for each page or part of a page."""
