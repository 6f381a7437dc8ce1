"""`redis-cluster://`: the nodes of a Redis or Valkey Cluster."""
