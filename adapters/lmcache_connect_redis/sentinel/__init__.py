"""`redis-sentinel://`: the primary that sentinels name, and its replicas."""
