"""A short form of `make chaos`: each of these faults once."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import measure
from tests.chaos.bench import Fault, Size
from tests.chaos.disks import bytes_flipped, clock_steps, disk_full, power_cut
from tests.chaos.processes import terminated


@pytest.mark.parametrize("fault", [terminated, power_cut, disk_full, bytes_flipped, clock_steps])
def test_fault_meets_all_targets_but_times(tmp_path_factory: pytest.TempPathFactory, fault: Fault) -> None:
    """Targets in seconds apply to an idle machine, so they are not checked here."""
    folder = tmp_path_factory.mktemp("chaos")  # a short path: socket paths have a maximum length
    rows = measure(fault, folder / "a", Size(0))
    assert rows
    if rows[-1].good is None:
        pytest.skip(rows[-1].measured)
    assert not [row for row in rows if not row.good and not row.target.endswith(" s")]
