"""Many single calls at the same time: each gets its own answer, and what happens to one disturbs no other.

The tests use the public API alone, against real servers. The modules:

* `stock.py`: what a store holds before a test, of every kind, and what each call of it must answer.
* `crowd.py`: the calls that a test makes at the same time, some of them cancelled.
"""
