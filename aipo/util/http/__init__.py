"""HTTP: servers of models are asked, their answers read, and what goes wrong put into words."""
