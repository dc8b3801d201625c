"""The pages of the viewer that compare two traces or two runs."""
