"""`aipo doctor`: checks of a configuration before a run: agents, tokens, servers, memory, versions."""
