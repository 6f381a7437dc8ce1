"""Which servers a URL stands for, and how a connection to one of them is opened.

One file for each kind of deployment: one server, a ring of servers, the primary that sentinels name, a cluster.
"""
