"""How chunks lie in a Redis store: one package for each layout, behind one interface."""
