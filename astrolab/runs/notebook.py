"""Execute a checked template in a kernel of this very Python, and keep what it made, whether it failed or not."""

import logging
import os
import re
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets import default

from astrolab.runs.parameters import INJECTED_TAG, TAG
from astrolab.runs.progress import CellProgress
from astrolab.stores.locks import try_lock
from astrolab.stores.publish import write_whole

KERNEL_START_SECONDS = 120
KERNEL_LOG = "kernel.log"  # what the kernel's process itself says, kept where it died
_KERNEL_DIR = "astrolab-kernel-"
_N_PATH = 100  # characters that a system lets the path of a socket have, nearly


def _is_news(record):
    """Return whether asyncio's message is more than that the kernel, which an interrupt ended, is dead."""
    return not (record.exc_info and isinstance(record.exc_info[1], DeadKernelError))


logging.getLogger("asyncio").addFilter(_is_news)


class ThisPython(AsyncKernelManager):
    """Starts kernels of the Python that runs AstroLab, whatever kernels are installed on the machine.

    They are spoken to through sockets in the file system, which no other user of the machine can reach.
    """

    @default("kernel_spec_manager")
    def _no_installed_kernels(self):
        return KernelSpecManager(kernel_dirs=[])

    @default("transport")
    def _sockets_in_the_file_system(self):
        return "tcp" if sys.platform == "win32" else "ipc"

    @default("connection_file")
    def _in_a_private_folder(self):
        folder = Path(tempfile.mkdtemp(prefix=_KERNEL_DIR, dir=_folder_of_kernels()))
        self._held = (folder / "lock").open("w")
        try_lock(self._held)
        return str(folder / "kernel.json")

    def cleanup_connection_file(self):
        """Remove the private folder with what is in it."""
        super().cleanup_connection_file()
        shutil.rmtree(Path(self.connection_file).parent, ignore_errors=True)
        self._held.close()

    async def start_kernel(self, **arguments):
        """Start the kernel, with progress bars as text, which a terminal, a log and an offline page can show."""
        # tqdm.auto draws widgets in a kernel, unless it believes that it is in Spyder
        environ = {**os.environ, "SPYDER_TEXT_BARS": "1", "TQDM_MININTERVAL": "0.5"}
        with Path(arguments["cwd"], KERNEL_LOG).open("wb") as log:
            await super().start_kernel(env=environ, stdout=log, stderr=log, **arguments)


def _folder_of_kernels():
    """Return where private folders are made: TMPDIR, or /tmp where that is too long for the path of a socket."""
    wanted = tempfile.gettempdir()
    is_long = len(wanted) + len(f"/{_KERNEL_DIR}12345678/kernel-ipc-5") > _N_PATH
    return "/tmp" if is_long and sys.platform != "win32" else wanted  # noqa: S108 (mkdtemp lets nobody else in)


def remove_dead_folders():
    """Remove the private folders of kernels whose driver was killed: nobody holds their locks any more."""
    for folder in Path(_folder_of_kernels()).glob(f"{_KERNEL_DIR}*"):
        # another user's cannot be opened
        with suppress(OSError), (folder / "lock").open("r+") as lock:
            if try_lock(lock):
                shutil.rmtree(folder, ignore_errors=True)


def execute(template, values, run_dir, progress, heartbeat):
    """Execute a template with checked values; the executed notebook is left in the run folder.

    Parameters
    ----------
    template : Template
        The template.
    values : dict
        Every parameter's value.
    run_dir : pathlib.Path
        The run folder, the kernel's working directory.
    progress : bool
        Whether to show progress on stderr.
    heartbeat : Heartbeat
        Is told which cell is running.

    Returns
    -------
    str or None
        Which cell failed and why, in one line; None when every cell was executed.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters whose type it cannot read
    remove_dead_folders()
    notebook = _prepare(template)
    part_path = run_dir / f".{template.name}.part.ipynb"
    cells = _with_injected_cell(notebook.cells)
    with CellProgress(cells, progress) as shown:
        try:
            return _execute(notebook, values, run_dir, part_path, shown, heartbeat)
        finally:
            if part_path.exists():
                _keep(part_path, run_dir / f"{template.name}.ipynb", template)


def _prepare(template):
    notebook = nbformat.reads(template.content.decode(), as_version=4)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def _with_injected_cell(cells):
    """Return the cells as papermill will number them: the values given go into a cell of their own."""
    place = 1 + next(index for index, cell in enumerate(cells) if TAG in cell.metadata.get("tags", []))
    return [*cells[:place], nbformat.v4.new_code_cell(metadata={"tags": [INJECTED_TAG]}), *cells[place:]]


def _execute(notebook, values, run_dir, part_path, shown, heartbeat):
    def start_cell(cell, cell_index):
        shown.start_cell(cell, cell_index)
        heartbeat.cell = shown.current

    try:
        executed = papermill.execute_notebook(
            notebook,
            _without_fields(part_path),
            parameters=values,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=KERNEL_START_SECONDS,
            kernel_manager_class=ThisPython,
            resources={"metadata": {"path": str(run_dir)}},  # the kernel's working directory
            on_cell_execute=start_cell,
            stdout_file=shown,
            stderr_file=shown,
        )
    except PapermillExecutionError as error:
        (run_dir / KERNEL_LOG).unlink()
        return f"{shown.current} failed: {error.ename}: {_first_line(error.evalue)}"
    except DeadKernelError:
        return f"{shown.current} failed: the kernel died (killed, out of memory, or a crash in a library: {KERNEL_LOG})"
    except RuntimeError as error:
        return f"the kernel did not start ({KERNEL_LOG}): {_first_line(str(error))}"
    (run_dir / KERNEL_LOG).unlink()
    if any(cell.cell_type == "code" and cell.source.strip() and not cell.execution_count for cell in executed.cells):
        return f"{shown.current} ended the notebook before its last cell"
    return None


def _without_fields(path):
    """Return a path as papermill wants it: it fills ``{fields}`` in file names."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _first_line(text):
    return next((line.strip() for line in text.splitlines() if line.strip()), "no message")


def _keep(part_path, path, template):
    """Give the executed notebook its name, once it is known to be whole."""
    notebook = nbformat.read(part_path, as_version=4)
    about = notebook.metadata.get("papermill", {})
    about["input_path"], about["output_path"] = f"{template.name}.ipynb", path.name
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _with_settled_streams(cell.outputs)
    nbformat.validate(notebook)
    write_whole(path, nbformat.writes(notebook).encode())
    part_path.unlink()


def _with_settled_streams(outputs):
    """Join what came in pieces from one stream, and show each progress bar once."""
    joined = []
    for output in outputs:
        before = joined[-1] if joined else {}
        if output.output_type == "stream" and before.get("name") == output.name:
            before.text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            output.text = settle(output.text)
    return joined


def settle(text):
    r"""Return text as a terminal would show it at the end: a progress bar is its last state.

    Parameters
    ----------
    text : str
        With carriage returns.

    Returns
    -------
    str
        Without.

    Examples
    --------
    >>> settle("10%\r50%\r100%\ndone")
    '100%\ndone'
    """
    return re.sub(r"[^\n]*\r(?=[^\r\n])", "", text.replace("\r\n", "\n")).replace("\r", "")
