"""`lmcache-connect serve`: the internal API for one or several stores."""
