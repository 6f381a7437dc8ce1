"""RESP over a byte stream: commands, replies, and connections that redis-py sets up."""
