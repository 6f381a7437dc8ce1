"""Redis and Valkey: one server, over TCP, TLS or a unix socket."""
