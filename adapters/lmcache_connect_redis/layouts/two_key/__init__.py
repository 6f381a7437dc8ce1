"""`layout=lmcache`: LMCache's two keys for each chunk."""
