"""run.py CONFIG: Patroni, with a shorter time to live of the leader's key than it takes by itself.

Patroni raises a `ttl` below 20 s to 20 s, and a failover then takes half a minute. What keeps two
leaders apart is not that number but `loop_wait + 2 * retry_timeout <= ttl`: a leader that does not
reach etcd stops before its key ends. That rule stays, and Patroni's own check of it.
"""

from typing import Any

from patroni.__main__ import main
from patroni.config import Config

LEAST_TTL_S = 7  # what the rule gives for the least that Patroni takes for the other two

adjusted = Config._Config__get_and_maybe_adjust_int_value


def adjust(self: Config, config: dict[str, Any], name: str, least: int) -> int:
    """As Patroni does it, with another least value."""
    value: int = adjusted(self, config, name, LEAST_TTL_S if name == "ttl" else least)
    return value


if __name__ == "__main__":  # Patroni starts Postgres by a process that imports this file again
    Config._Config__get_and_maybe_adjust_int_value = adjust
    main()
