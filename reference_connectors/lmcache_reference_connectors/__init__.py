"""Small, obviously correct connectors: the oracle for the fast ones, and what an author copies from."""
