"""Which ports a training on this machine opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.processes import checkpoints, descendants, listening_addresses, started, wait_for


@pytest.mark.ray
@pytest.mark.slow
def test_a_session_of_our_own_listens_on_the_loopback_address_only(tmp_path: Path) -> None:
    options = ["--hidden", "8", "--steps", "1000000", "--checkpoint-every", "5", "--workers", "2", "--out", "run"]
    with started("train", *options, cwd=tmp_path) as process:
        wait_for(lambda: checkpoints(tmp_path / "run"), 60, "a checkpoint")
        pids = [process.pid, *(one.pid for one in descendants(process))]
        listening = listening_addresses(pids)
        assert len(listening) > 7  # of the driver, the control service, the raylet, its agents and two workers
        assert {address.removeprefix("::ffff:") for address, _ in listening} == {"127.0.0.1"}, listening
