"""`Way`: how a server is asked for its share of a call."""

from __future__ import annotations

from enum import Enum


class Way(Enum):
    """How the requests for some keys are made. All but `PLAIN` and `PART` are for nodes of a cluster.

    `WHOLE`: no chunk is put in pieces, since its slot is moving to another node, where no transaction is possible yet.
    `ASKING`: of a node that only is about to get the slots; whole as well. `REPLICA`: of a replica, whose copy may be
    old or damaged while the primary's is not. `PART`: of the server of a ring that has pieces of spread chunks; they
    are put with a time to live of their own.
    """

    PLAIN = "plain"
    WHOLE = "whole"
    ASKING = "asking"
    REPLICA = "replica"
    PART = "part"

    @property
    def is_whole(self) -> bool:
        """Whether each chunk is put as one value."""
        return self is Way.WHOLE or self is Way.ASKING
