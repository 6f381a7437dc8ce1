"""What a store holds: `lmcache-connect ls`, `inspect`, `rm`, `clear` and `du`."""
