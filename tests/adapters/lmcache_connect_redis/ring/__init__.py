"""Several plain servers behind one URL."""
