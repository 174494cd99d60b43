"""What the workers of the tests' clusters do: a worker finds functions by their module's name."""

import os
import signal
import time
from pathlib import Path


def square(number):
    return number * number


def nothing(number):
    return None


def fail(number):
    raise ValueError(f"no {number}")


def end_the_worker_at_5(number):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def leave_a_mark(task):
    """Take a while, and write down that it was done."""
    number, folder = task
    time.sleep(0.05)
    (Path(folder) / f"{number}-{time.time_ns()}").write_text(str(os.getpid()))
    return number


def held_back(task):
    """Be the later done the smaller it is."""
    time.sleep(0.3 if task == 0 else 0.0)
    return task
