"""A policy sampled by vLLM servers: client, server pool, launching and weight synchronisation."""
