"""Time things in turn, by the clock and by the processor time they take."""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.table import Table


class Spent(NamedTuple):
    """What a task took at best.

    Attributes
    ----------
    wall, processor : float
        Seconds by the clock, and of processor time in all processes; a busy machine stretches the former alone.
    """

    wall: float
    processor: float


def best_of_each(tasks, processes=(), n_rounds=3, before=None):
    """Time functions in turn, a few rounds, so that what else the machine does meets them alike.

    Parameters
    ----------
    tasks : dict of str to callable
        What to time.
    processes : sequence of psutil.Process, optional
        Whose processor time counts, beside that of this process.
    n_rounds : int, optional
        How often.
    before : dict of str to callable, optional
        What some of them need first; it is not timed.

    Returns
    -------
    dict of str to Spent
        The least of each: the one with the least of other programs in it.
    """
    everyone = [psutil.Process(), *processes]
    spent = {name: [] for name in tasks}
    for _ in range(n_rounds):
        for name, function in tasks.items():
            if before and name in before:
                before[name]()
            processor, wall = _processor_seconds(everyone), time.perf_counter()
            function()
            spent[name].append((time.perf_counter() - wall, _processor_seconds(everyone) - processor))
    return {name: Spent(*map(min, zip(*times, strict=True))) for name, times in spent.items()}


class PeakMemory:
    """The largest sum of the resident memory of processes while this block runs, looked at ten times a second.

    Parameters
    ----------
    processes : sequence of psutil.Process
        Whose.

    Attributes
    ----------
    megabytes : float
        The peak so far.
    """

    def __init__(self, processes):
        self._processes = processes
        self.megabytes = 0.0

    def __enter__(self):
        self._is_on = True
        self._pool = ThreadPoolExecutor(1)
        self._watch = self._pool.submit(self._look)
        return self

    def __exit__(self, *error):
        self._is_on = False
        self._watch.result()
        self._pool.shutdown()

    def _look(self):
        while self._is_on:
            self.megabytes = max(self.megabytes, sum(process.memory_info().rss for process in self._processes) / 1e6)
            time.sleep(0.1)


def print_measured(measure, title, arguments=None, **sizes):
    """Measure with the sizes of the command line, and print the figures.

    Parameters
    ----------
    measure : callable
        Takes the sizes by name, returns name to number; its module's first line is the command's help.
    title : str
        What is measured; ``{n_objects:,}`` stands for a size.
    arguments : list of str, optional
        Instead of this process's.
    **sizes : int
        Options of the command line, and what they are by themselves.
    """
    parser = argparse.ArgumentParser(description=sys.modules[measure.__module__].__doc__.splitlines()[0])
    for name, size in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size)
    parser.add_argument("--json", action="store_true")
    given = vars(parser.parse_args(arguments))
    is_json = given.pop("json")
    print_figures(title.format(**given), measure(**given), is_json)


def print_figures(title, figures, is_json=False):
    """Print figures as a table, or as JSON.

    Parameters
    ----------
    title : str
        What was measured.
    figures : dict of str to float
        Name to number.
    is_json : bool, optional
        As JSON.
    """
    if is_json:
        print(json.dumps(figures, indent=2, ensure_ascii=False))
        return
    table = Table("what", title=title)
    table.add_column("figure", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.3g}" if value < 100 else f"{value:,.0f}")
    Console().print(table)


def _processor_seconds(processes):
    return sum(sum(process.cpu_times()[:2]) for process in processes)
