"""What a connector of Redis servers can tell of them, for the command `check`.

`reaching.py` opens a connection step by step, `command_trials.py` tries what chunks need, `server_facts.py` reads what
a server says of itself, and `settings.py` judges it. `server.py` does all of that for one server. `ring.py`,
`sentinels.py` and `cluster.py` do it for several, and look at what is between them.
"""
