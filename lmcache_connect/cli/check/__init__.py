"""`lmcache-connect check`: what works of a store, what does not, and what to do."""
