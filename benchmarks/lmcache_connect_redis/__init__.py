"""The Redis connector, compared with other clients: `make bench`."""
