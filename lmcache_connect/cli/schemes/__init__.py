"""`lmcache-connect schemes` and `plugins`: what a URL may begin with and say, and what is installed."""
