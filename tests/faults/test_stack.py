"""A whole organization under load while its machines and parts are broken, one or two at a time.

`make faults MINUTES=30 SEED=7` runs it for as long as it is told. What agents saw is recorded and
judged: nothing acknowledged is lost, no key stored twice, order kept, no reader skips.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from faults.stack import LONGEST_S, schedule, suffer
from support.organization import until

if TYPE_CHECKING:
    import pytest

    from support.organization import Organization

SHORT_RUN_MIN: Final = 10.0
SHORT_S: Final = 12.0
"""The longest that a fault is held in a run of less than SHORT_RUN_MIN minutes."""
RESUME_LIMIT_S: Final = 90.0


def test_faults(organization: Organization, request: pytest.FixtureRequest) -> None:
    minutes: float = request.config.getoption("--minutes")
    seed: int | None = request.config.getoption("--seed")
    if seed is None:
        seed = random.SystemRandom().randrange(10**6)
    longest_s = LONGEST_S if minutes >= SHORT_RUN_MIN else SHORT_S
    chance = random.Random(seed)
    say = organization.say
    say(f"seed {seed}: make faults MINUTES={minutes:g} SEED={seed} repeats it")
    organization.lab.on(organization.bearers("coordd")[0],
                        "apt-get install -qy libfaketime >/dev/null")
    organization.settled()
    organization.since = time.time()
    load = organization.load("faults", seed, RESUME_LIMIT_S)
    deadline = time.monotonic() + 60 * minutes
    try:
        load.start()
        say(f"{'fault':<62} {'held':>6} {'no write':>9} {'no read':>8} {'whole after':>11}")
        for faults in schedule(seed):
            began = time.monotonic()
            held_s = suffer(organization, faults, chance, longest_s)
            ended = time.monotonic()
            load.resumed()
            organization.settled()
            whole_s = time.monotonic() - ended
            load.run(30)
            say(f"{' and '.join(fault.name for fault in faults):<62} {held_s:5.1f}s "
                f"{load.history.longest_gap_s('Sender', began):8.1f}s "
                f"{load.history.longest_gap_s('Reader', began):7.1f}s {whole_s:10.1f}s")
            if time.monotonic() > deadline:
                break
        stored = load.acknowledged
        assert load.stop() == [], f"seed {seed}"
        say(f"{stored} requests were acknowledged; nothing lost, doubled, out of order or skipped")
    finally:
        load.abandon()


def test_the_judge_sees_what_one_copy_alone_loses(organization: Organization) -> None:
    """With synchronous mode off and the leader's machine gone, what only it had is missed."""
    organization.settled()
    leader, replica = organization.leader, organization.replicas[0]
    set_synchronous(organization, on=False)
    load = organization.load("alone", 5, RESUME_LIMIT_S)
    try:
        load.start()
        organization.fault("partition", leader, replica)
        load.run(20)
        organization.fault("kill", leader)
        organization.fault("heal")
        load.resumed([*load.senders])
        try:
            found = load.stop()
        except AssertionError as error:  # a reader that looks for what was answered
            found = [str(error)]
        assert any("lost" in one or "not shown" in one for one in found), found
    finally:
        load.abandon()
        organization.fault("heal")
        organization.fault("start", leader)
        set_synchronous(organization, on=True)
        organization.settled()


def set_synchronous(site: Organization, *, on: bool) -> None:
    """Have Patroni keep a synchronous replica, or none."""
    site.lab.on(site.replicas[0], "patronictl -c /etc/patroni/coordctl.yml edit-config --force "
                f"--set synchronous_mode={'true' if on else 'false'}")
    state = "sync" if on else "async"

    def so() -> bool:
        return site.lab.on(site.leader, (
            "cd /; runuser -u postgres -- psql -Atqc "
            "'SELECT sync_state FROM pg_stat_replication'")).split() == [state]
    until(so, 60)
