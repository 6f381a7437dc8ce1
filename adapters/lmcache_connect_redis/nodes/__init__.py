"""Connectors of several servers, each of which has a share of the keys: the base of rings and Clusters."""
