"""Any LangGraph agent as a rollout: a chat model over the policy, and the ledger of its calls."""
