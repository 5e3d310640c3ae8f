"""Where templates are, and what each one is."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from astrolab.runs.parameters import Parameter, ParameterError, nearest, parse_values, read_parameters
from astrolab.settings import settings


@dataclass(frozen=True)
class Template:
    """A notebook with typed parameters, which `run_template` executes.

    Attributes
    ----------
    name : str
        Its file's name without ``.ipynb``.
    title : str
        Its first heading.
    parameters : tuple of Parameter
        Name, type, default and help of each.
    path : pathlib.Path
        Where it lies.
    content : bytes
        What was read there: what is checked is what is executed.
    """

    name: str
    title: str
    parameters: tuple[Parameter, ...]
    path: Path
    content: bytes

    @cached_property
    def sha256(self):
        """Hash of the template's bytes."""
        return sha256(self.content).hexdigest()

    def parse(self, pairs):
        """Parse parameters given as text, as on the command line.

        Parameters
        ----------
        pairs : iterable of (str, str)
            Names and texts.

        Returns
        -------
        dict
            Names and Python objects, as `run_template` takes them.

        Raises
        ------
        ParameterError
            If a name is unknown or given twice, or a text cannot be read as the parameter's type.
        """
        return parse_values(self.parameters, pairs, self.name)


def list_templates():
    """List the templates that can be run here.

    Those of AstroLab, and those in ``ASTROLAB_TEMPLATES_DIR``, which win where a name is in both.

    Returns
    -------
    list of Template
        Sorted by name.

    Raises
    ------
    ParameterError
        If one of them has no proper parameters cell.

    Examples
    --------
    >>> from astrolab.runs import list_templates
    >>> "ingest_survey" in [template.name for template in list_templates()]
    True
    """
    return [_read(name, path) for name, path in sorted(_paths().items())]


def find_template(name):
    """Return the template of that name.

    Parameters
    ----------
    name : str
        A name that ``astrolab templates`` lists; never a path.

    Returns
    -------
    Template
        With its parameters.

    Raises
    ------
    ParameterError
        If there is none of that name (with the nearest known one), or it has no proper parameters cell.
    """
    paths = _paths()
    if name not in paths:
        raise ParameterError(f"there is no template {name!r}; {_nearest_template(name, paths)}")
    return _read(name, paths[name])


def checkout_dir():
    """Return the clone that this package runs from, or None when it is installed without one.

    Returns
    -------
    pathlib.Path or None
        The repository's root.
    """
    root = Path(str(files("astrolab"))).parent
    return root if (root / "templates").is_dir() and (root / "pyproject.toml").is_file() else None


def _nearest_template(name, paths):
    hint = nearest(name, sorted(paths))
    return hint.replace("it has", "there are")


def _paths():
    checkout = checkout_dir()
    own = checkout / "templates" if checkout else Path(str(files("astrolab"))) / "_notebooks" / "templates"
    folders = [own, settings().templates_dir]
    if folders[1] is not None and not folders[1].is_dir():
        raise FileNotFoundError(f"ASTROLAB_TEMPLATES_DIR is {str(folders[1])!r}, but there is no such folder.")
    return {path.stem: path for folder in folders if folder is not None for path in folder.glob("*.ipynb")}


def _read(name, path):
    import nbformat  # takes longer than all the rest of a command that needs no template

    content = path.read_bytes()
    try:
        notebook = nbformat.reads(content.decode(), as_version=4)
        nbformat.validate(notebook)
    except (ValueError, nbformat.ValidationError, AttributeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ParameterError(f"template {name!r} at {path} is not a notebook: {reason}") from error
    return Template(name, heading(notebook.cells) or name, read_parameters(notebook, name), path, content)


def heading(cells):
    """Return the first Markdown heading among cells.

    Parameters
    ----------
    cells : list of nbformat.NotebookNode
        Cells of a notebook.

    Returns
    -------
    str
        Without its ``#``; empty where there is none.
    """
    lines = (line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.lstrip("#").strip() for line in lines if line.startswith("#")), "")
