"""The `lmcache-connect` command. Needs the extra `lmcache-connect[cli]`; nothing else imports typer or rich."""
