"""Where user names and passwords come from, and when they are asked for again."""
