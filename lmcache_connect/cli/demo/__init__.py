"""`lmcache-connect demo`: chunks of real size there and back, every byte compared."""
