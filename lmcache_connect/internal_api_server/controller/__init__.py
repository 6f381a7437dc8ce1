"""Routes about all processes that share a store: workers and key statistics."""
