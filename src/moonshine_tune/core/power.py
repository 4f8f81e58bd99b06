"""Power of this machine: keeping a Mac awake, and whether it runs on battery."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_CAFFEINATE = "/usr/bin/caffeinate"


@contextmanager
def keep_awake(wanted: bool = True) -> Iterator[None]:
    """Keep a Mac from idle sleep inside the block; on other systems nothing happens.

    A closed lid still lets it sleep. `caffeinate` also ends by itself when this process does.
    """
    process = None
    if wanted and sys.platform == "darwin":
        try:
            process = subprocess.Popen([_CAFFEINATE, "-i", "-w", str(os.getpid())])
        except OSError:
            # A system without it sleeps as it does for any program.
            process = None
    try:
        yield
    finally:
        if process is not None:
            process.terminate()
            process.wait()


def is_on_battery() -> bool:
    """Whether this machine runs on its battery now; false where that is not known."""
    import psutil

    try:
        # Missing on some systems.
        battery = psutil.sensors_battery()  # type: ignore[attr-defined,unused-ignore]
    except (AttributeError, OSError, RuntimeError):
        return False
    return battery is not None and battery.power_plugged is False
