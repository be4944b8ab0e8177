"""Several nodes that share the slots."""
