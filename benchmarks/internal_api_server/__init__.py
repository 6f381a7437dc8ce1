"""What load on the internal API costs a transfer."""
