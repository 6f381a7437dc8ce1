"""What a connector of buckets can tell of its store, for the command `check`.

`bucket_diagnosis.py` has the steps: it reaches the store, and looks at the bucket. `object_trials.py` tries each
request that chunks need, on objects of its own. `bucket_rules.py` reads the bucket's versioning and lifecycle.
"""
