"""RESP over a byte stream: commands, replies, and how a connection is set up."""
