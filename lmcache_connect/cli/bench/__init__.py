"""`lmcache-connect bench`: how fast a store puts, gets and looks up, by size and concurrency."""
