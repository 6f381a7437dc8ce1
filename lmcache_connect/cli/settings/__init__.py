"""`lmcache-connect doctor` and `config`: what is installed, which settings are in effect, and where each comes from."""
