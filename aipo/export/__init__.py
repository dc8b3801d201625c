"""`aipo export`: stored traces in formats that others read."""
