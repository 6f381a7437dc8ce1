"""Requests that go ahead of their replies: many calls share a connection."""
