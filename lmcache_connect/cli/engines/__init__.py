"""`lmcache-connect engines`: which engines are installed, and what to paste into their configuration."""
