"""Runs inside the sandbox: a solution as the main program, with the names of the prelude."""

import runpy

runpy.run_path("solution.py", init_globals=runpy.run_path("prelude.py"), run_name="__main__")
