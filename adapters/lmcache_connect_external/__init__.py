"""`external://`: a connector class that others wrote, named in the URL."""
