"""`lmcache-connect soak`: mixed load, every value verified, and faults on the way to the store or of its servers."""
