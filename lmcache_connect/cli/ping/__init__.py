"""`lmcache-connect ping`: whether a store answers, and how fast."""
