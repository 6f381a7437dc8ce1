"""Storms: random load, kills and faults against a real store, with every value and every call checked.

    python -m tests.chaos --minutes 10 --server valkey --seed 7

A storm starts three servers of one kind on loopback, two proxies that harm connections, and seven processes that put,
get and remove chunks. `storm.py` says who does what, and `CONTRIBUTING.md` how to run it. The modules:

* `caller.py`: makes one call, cancels it perhaps, and holds it to its deadline.
* `keeper.py`, `roamer.py`: the actors. `crew.py`: the actors of one process.
* `throng.py`: the actors of a storm of single calls. `losses.py`: what its server has lost.
* `child.py`, `weather.py`: the other processes. `storm.py`, `aftermath.py`: the main one. `report.py`: the outcome.
"""
