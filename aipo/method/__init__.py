"""The method: plan, credit, training rows, coefficient, loss and metrics. It is pure: no file and no server."""
