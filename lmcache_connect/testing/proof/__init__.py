"""What a test holds against a store: values that say whose they are, what a key may hold, and what a process uses."""
