"""The `lmcache-connect` command. It needs the extra `lmcache-connect[cli]`. No other package imports typer or rich.

Nothing imports this package. `app.py` has the commands, `main.py` the entry point.
"""
