"""What a small call costs through the managed connector: `make bench-small`."""
