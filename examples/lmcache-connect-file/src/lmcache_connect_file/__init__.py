"""A connector for LMCache Connect that keeps chunks in a folder: `file:///path/to/folder`."""
