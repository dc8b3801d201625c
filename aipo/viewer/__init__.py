"""The viewer: traces as pages, served live on this machine or written out as a static site."""
