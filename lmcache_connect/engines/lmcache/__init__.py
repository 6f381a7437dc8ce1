"""Inside LMCache: its plug-in framework loads `plugin`. Chunks lie in LMCache's own memory."""
