"""Inside LMCache: its plug-in framework loads `plugin`, and chunks lie in LMCache's own memory."""
