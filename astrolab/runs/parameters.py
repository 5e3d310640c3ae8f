"""The parameters of a template: read from its one tagged cell, and every value checked before a kernel starts.

The cell is data, never executed here: each line is ``name: type = literal  # help``, read with `ast` and `tokenize`.
The help of a number may end in its range, ``[1 to 64]``; of ``…_min`` and ``…_max`` the first is below the second.
"""

import ast
import io
import json
import os
import re
import tokenize
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

TAG = "parameters"
INJECTED_TAG = "injected-parameters"  # papermill's, on the cell of the values given
_SCALARS = {"int": int, "float": float, "str": str, "bool": bool}
_RANGE = re.compile(r"\[(-?[\d.]+) to (-?[\d.]+)\]$")
_KINDS = "int, float, str, bool, list[...] of those, '... | None' and Literal[...]"

# run_template's own arguments, which a parameter of the same name would hide
_TAKEN = ("name", "run_dir", "progress")
# parameters that mean the same in every template; seed must be there
_HOUSE = {"seed": "int", "cluster": "str", "n_workers": "int | None"}


class ParameterError(ValueError):
    """A template's parameters cell, or a value given to it, is not as it must be."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a template.

    Attributes
    ----------
    name : str
        Its name; ``…_path`` and ``…_dir`` are inputs that must exist, ``out_…`` are outputs inside the run folder.
    type : str
        Its type as written in the template, such as ``"int | None"``.
    default : object
        Its default value.
    help : str
        What it means, in the template's words.
    """

    name: str
    type: str
    default: Any
    help: str

    @property
    def is_number(self):
        """Whether its values are numbers, which have a range."""
        return re.search(r"\b(int|float)\b", self.type) is not None

    @property
    def range(self):
        """Smallest and largest value, as the end of the help says; None where it says nothing."""
        found = _RANGE.search(self.help) if self.is_number else None
        return None if found is None else tuple(ast.literal_eval(end) for end in found.groups())

    @property
    def is_output(self):
        """Whether it names a file to be written in the run folder."""
        return self.name.startswith("out_")

    @property
    def is_input(self):
        """Whether it names a file or folder to be read."""
        return self.name.endswith(("_path", "_dir")) and not self.is_output


def read_parameters(notebook, template):
    """Read the parameters of a template from its tagged cell, without executing anything.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        The template.
    template : str
        Its name, for messages.

    Returns
    -------
    tuple of Parameter
        In the order of the cell.

    Raises
    ------
    ParameterError
        If there is not exactly one cell tagged ``parameters``, or a line of it is not ``name: type = literal  # help``.
    """
    cells = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    if len(cells) != 1 or cells[0].cell_type != "code":
        raise ParameterError(
            f"template {template!r} has {len(cells)} cells tagged '{TAG}', expected exactly one code cell: "
            "without it papermill would run the template on its defaults."
        )
    source = cells[0].source
    try:
        lines = ast.parse(source).body
        comments = {
            token.start[0]: token.string.lstrip("#").strip()
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        raise ParameterError(f"the parameters cell of template {template!r} is not Python: {error}.") from error
    parameters = tuple(_read_line(line, comments.get(line.lineno, ""), template) for line in lines)
    _check_names(parameters, template)
    _check_literal(notebook.cells, cells[0], parameters, template)
    return parameters


def check_values(parameters, given, template):
    """Check values given as Python objects, and complete them with the defaults.

    Parameters
    ----------
    parameters : tuple of Parameter
        What the template knows.
    given : dict
        Name to value. numpy scalars and `os.PathLike` count as numbers and strings; nothing else is converted, except
        an int where a float is expected.
    template : str
        Its name, for messages.

    Returns
    -------
    dict
        Every parameter's value, in the order of the cell.

    Raises
    ------
    ParameterError
        If a name is unknown (with the nearest known one), a value has the wrong type or is out of its range, or a
        ``…_min`` is not below its ``…_max``.
    """
    known = _by_name(parameters, given, template)
    values = {parameter.name: parameter.default for parameter in parameters}
    for name, value in given.items():
        values[name] = _check_value(known[name], _plain(value), template)
    _check_order(known, values, template)
    return values


def parse_values(parameters, pairs, template):
    """Parse values given as text on a command line.

    Parameters
    ----------
    parameters : tuple of Parameter
        What the template knows.
    pairs : iterable of (str, str)
        Name and text. Text is taken as it is for a ``str``; ``None`` means None where the type allows it; a list is
        written as JSON, ``'["a", "b"]'``.
    template : str
        Its name, for messages.

    Returns
    -------
    dict
        Name to Python object, of the names given.

    Raises
    ------
    ParameterError
        If a name is unknown or given twice, or a text cannot be read as the parameter's type or is out of its range.
    """
    given = {}
    for name, text in pairs:
        if name in given:
            raise ParameterError(f"parameter {name!r} of template {template!r} is given twice; give it once.")
        given[name] = text
    known = _by_name(parameters, given, template)
    return {name: _parse_text(known[name], text, template) for name, text in given.items()}


def _read_line(line, comment, template):
    where = f"line {line.lineno} of the parameters cell of template {template!r}"
    if not (
        isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and line.value is not None
        and line.lineno == line.end_lineno
        and comment
    ):
        raise ParameterError(f"{where} is not 'name: type = literal  # help' on one line.")
    annotation = ast.unparse(line.annotation)
    try:
        default = ast.literal_eval(line.value)
    except ValueError as error:
        raise ParameterError(f"{where}: the default of {line.target.id!r} is not a literal.") from error
    _read_type(line.annotation, where)
    parameter = Parameter(line.target.id, annotation, default, comment)
    low, high = parameter.range or (0, -1)
    if parameter.is_number and comment.endswith("]") and not low < high:
        raise ParameterError(f"{where}: the help does not end in a range such as [1 to 64].")
    try:
        _adapter(parameter).validate_python(default)
    except ValidationError as error:
        raise ParameterError(
            f"{where}: the default {default!r} of {parameter.name!r} is not {_expected(parameter)}."
        ) from error
    return parameter


def _check_names(parameters, template):
    types = {parameter.name: parameter.type for parameter in parameters}
    if len(types) != len(parameters):
        raise ParameterError(f"the parameters cell of template {template!r} names a parameter twice.")
    if "seed" not in types:
        raise ParameterError(f"template {template!r} has no parameter 'seed: int = 0', which every template has.")
    for name, expected in _HOUSE.items():
        if types.get(name, expected) != expected:
            raise ParameterError(f"parameter {name!r} of template {template!r} is {types[name]}, expected {expected}.")
    for parameter in parameters:
        if parameter.name in _TAKEN:
            raise ParameterError(
                f"template {template!r} has a parameter {parameter.name!r}, a name of run_template's own; rename it."
            )
        if (parameter.is_input or parameter.is_output) and "str" not in parameter.type:
            raise ParameterError(
                f"parameter {parameter.name!r} of template {template!r} names a file, so its type is str, "
                f"not {parameter.type}."
            )


def _check_literal(cells, tagged, parameters, template):
    before = "".join(cell.source for cell in cells[: cells.index(tagged)] if cell.cell_type == "code")
    if any("Literal" in parameter.type for parameter in parameters) and "import Literal" not in before:
        raise ParameterError(
            f"template {template!r} has a Literal parameter; put 'from typing import Literal' in a cell above."
        )


def _read_type(node, where, limits=None):
    match node:
        case ast.Name(id=name) if name in _SCALARS:
            return _SCALARS[name] if limits is None else Annotated[_SCALARS[name], limits]
        case ast.BinOp(left=inner, op=ast.BitOr(), right=ast.Constant(value=None)):
            return _read_type(inner, where, limits) | None
        case ast.Subscript(value=ast.Name(id="list"), slice=ast.Name() as inner):
            return list[_read_type(inner, where, limits)]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Constant(value=str() | int() as only)):
            return Literal[only]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=elements)):
            if all(isinstance(element, ast.Constant) and isinstance(element.value, str | int) for element in elements):
                return Literal[tuple(element.value for element in elements)]
    raise ParameterError(f"{where}: the type {ast.unparse(node)!r} is none of {_KINDS}.")


def _adapter(parameter):
    limits = parameter.range and Field(ge=parameter.range[0], le=parameter.range[1])
    kind = _read_type(ast.parse(parameter.type, mode="eval").body, f"parameter {parameter.name!r}", limits)
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def _by_name(parameters, given, template):
    known = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in known:
            raise ParameterError(f"template {template!r} has no parameter {name!r}; {nearest(name, known)}")
    return known


def nearest(name, known):
    """Say which known name is meant, or which there are.

    Parameters
    ----------
    name : str
        What was typed.
    known : iterable of str
        What there is.

    Returns
    -------
    str
        The end of a sentence.
    """
    known = list(known)
    close = get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, known)) or 'none'}."


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _check_value(parameter, value, template):
    try:
        return _adapter(parameter).validate_python(value)
    except ValidationError as error:
        raise _wrong(parameter, value, template) from error


def _check_order(known, values, template):
    for name, last in known.items():
        first = known.get(name.removesuffix("_max") + "_min")
        if not (name.endswith("_max") and first and first.is_number and last.is_number):
            continue
        low, high = values[first.name], values[name]
        if None not in (low, high) and not low < high:
            raise ParameterError(
                f"parameters {first.name!r} and {name!r} of template {template!r} are {low!r} and {high!r}, expected "
                f"the first below the second, such as {first.default!r} and {last.default!r}."
            )


def _parse_text(parameter, text, template):
    adapter = _adapter(parameter)
    if text == "None" and parameter.type.endswith("None"):
        return None
    try:
        if parameter.type.startswith("list"):
            return adapter.validate_json(text)
        if parameter.type.startswith("Literal"):
            return adapter.validate_python(_literal_of(parameter, text))
        return adapter.validate_strings(text, strict=False)
    except ValidationError as error:
        raise _wrong(parameter, text, template) from error


def _literal_of(parameter, text):
    """Return the option that is written as `text`: ``Literal[1, 2]`` holds numbers, the shell gives text."""
    options = ast.literal_eval(f"({parameter.type.partition('[')[2].rpartition(']')[0]},)")
    return next((option for option in options if str(option) == text), text)


def _wrong(parameter, value, template):
    shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
    advice = f"; write it as JSON, {json.dumps(parameter.default)!r}" if parameter.type.startswith("list") else ""
    return ParameterError(
        f"parameter {parameter.name!r} of template {template!r} is {shown} ({type(value).__name__}), "
        f"expected {_expected(parameter)}{advice}."
    )


def _expected(parameter):
    if parameter.range is None:
        return parameter.type
    such = "" if parameter.default is None else f", such as {parameter.default!r}"
    return f"{parameter.type} from {parameter.range[0]} to {parameter.range[1]}{such}"
