"""The data of the viewer: what its pages read from run folders."""
