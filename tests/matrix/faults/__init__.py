"""The faults, one family a module. Each begins, and ends."""
