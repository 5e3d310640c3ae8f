"""Live progress of a run: which cell of how many, and what the kernel says, in a terminal as in a log file."""

import re
import sys
import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from astrolab.runs.parameters import INJECTED_TAG, TAG

SECONDS_BETWEEN_LINES = 1.0
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class CellProgress:
    """Follow the cells of a notebook while they are executed; a context manager.

    It is what nbclient calls before each cell, and the file that the kernel's streams are copied to. Of what the kernel
    prints, the newest line is shown at most once a second; all of it is in the executed notebook.

    Parameters
    ----------
    cells : list of nbformat.NotebookNode
        The notebook's cells.
    is_shown : bool
        Whether to show anything; the current cell is followed in any case.
    """

    def __init__(self, cells, is_shown):
        self._headings = _headings(cells)
        self._is_shown = is_shown
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = None
        self._line, self._tail, self._shown_at = "", "", 0.0
        self.current = None

    def __enter__(self):
        if self._is_shown and self._console.is_terminal:
            columns = (MofNCompleteColumn(), BarColumn(20), TimeElapsedColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("starting the kernel", total=len(self._headings))
            self._bar.start()
        return self

    def __exit__(self, *exception):
        self._show_line()
        if self._bar is not None:
            self._bar.stop()

    def start_cell(self, cell, cell_index):
        """Say that a cell begins: the hook ``on_cell_execute`` of nbclient."""
        self._show_line()
        self._tail = ""
        number, title = self._headings[cell_index]
        self.current = f"cell {number} ({title})"
        if self._bar is not None:
            self._bar.update(self._task, completed=number - 1, description=escape(title))
        elif self._is_shown:
            self._print(f"[{number}/{len(self._headings)}] {title}")

    def write(self, text):
        """Take a piece of what the kernel printed."""
        pieces = re.split(r"[\r\n]+", self._tail + _ANSI.sub("", text))
        # a progress bar ends in no newline: what stands there is its newest state
        self._tail = pieces[-1] if text[-1:] not in "\r\n" else ""
        lines = [piece.strip() for piece in pieces if piece.strip()]
        if lines:
            self._line = lines[-1]
        if time.monotonic() - self._shown_at >= SECONDS_BETWEEN_LINES:
            self._show_line()

    def flush(self):
        """Do nothing: lines are shown when they are due."""

    def _show_line(self):
        if not (self._line and self._is_shown):
            return
        if self._bar is not None:
            self._bar.update(self._task, description=escape(f"{self.current}: {self._line}"))
        else:
            self._print(f"    {self._line}")
        self._line, self._shown_at = "", time.monotonic()

    def _print(self, line):
        self._console.print(escape(line))
        sys.stderr.flush()


def _headings(cells):
    """Return {index of a code cell: (its number from 1, the heading above it or its first line)}."""
    titles, above = {}, ""
    for index, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            above = next((line.lstrip("# ") for line in reversed(cell.source.splitlines()) if line[:1] == "#"), above)
        if cell.cell_type == "code":
            titles[index] = (len(titles) + 1, _title(cell, above))
    return titles


def _title(cell, above):
    tags = cell.metadata.get("tags", [])
    if TAG in tags or INJECTED_TAG in tags:
        return "default parameters" if TAG in tags else "parameters given"
    return above or next((line.strip("# ") for line in cell.source.splitlines() if line.strip()), "empty")
