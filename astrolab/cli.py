"""The command line: one thin function a command. Results go to stdout, progress and errors to stderr."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

import astrolab

app = typer.Typer(
    name="astrolab",
    help="Find strange objects in spectroscopic surveys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# the command line's separator of the two words after -p, which no argument can contain
_BETWEEN = "\0"
_AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone on stdout.")]


def main(arguments=None):
    """Run the command line.

    A user's mistake ends in one sentence on stderr and exit code 1 (2 for a wrong command line); with
    ``ASTROLAB_DEBUG=1`` in the environment the traceback is shown.

    Parameters
    ----------
    arguments : list of str, optional
        Instead of this process's.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(_join_pairs(arguments), prog_name="astrolab")
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get("ASTROLAB_DEBUG"):
            raise
        sys.stderr.write(f"astrolab: {' '.join(str(error).split()) or type(error).__name__}\n")
        sys.exit(1)


def _join_pairs(arguments):
    """Join the two words after each ``-p`` of ``run``: an option of typer takes one."""
    if arguments[:1] != ["run"]:
        return arguments
    joined, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        joined.append(word)
        if word == "-p" and len(rest) >= 2:
            joined.append(rest.pop(0) + _BETWEEN + rest.pop(0))
    return joined


def _pair(text):
    name, between, value = text.partition(_BETWEEN)
    if not between:
        raise typer.BadParameter("expected a name and a value, as in -p n_latent 8")
    return name, value


def _show_version(is_asked):
    if is_asked:
        sys.stdout.write(f"astrolab {astrolab.__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
):
    pass


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="The store, or the folder of DESI files, to write.")],
    n_objects: Annotated[int, typer.Option(help="How many objects.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.", min=0)] = 0,
    format: Annotated[  # noqa: A002 the option's name
        Literal["zarr", "desi"], typer.Option(help="A spectra store, or DESI coadd and redrock FITS files.")
    ] = "zarr",
):
    """Simulate a survey with planted rare objects and their truth."""
    from astrolab.simulation.survey import simulate_survey

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already; give the name of something new.")
    spectra = simulate_survey(n_objects, seed)
    if format == "desi":
        from astrolab.simulation.desi_files import write_desi_files

        write_desi_files(spectra, out)
    else:
        from astrolab.stores.spectra import save_spectra

        save_spectra(spectra, out)
    sys.stdout.write(f"{n_objects} simulated objects (seed {seed}) are in {out}\n")


@app.command()
def ingest(
    survey: Annotated[Literal["desi", "sdss"], typer.Argument(help="Whose files they are.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="SRC...", help="Files, folders, patterns or s3:// addresses.")
    ],
    out: Annotated[str, typer.Option("--out", help="The spectra store to write.")],
    is_json: _AsJson = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when anything is quarantined.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a store that is there, once the new one is whole.")
    ] = False,
):
    """Read survey files into one spectra store; each row is stored or quarantined. Killed, the same command goes on."""
    from astrolab.ingest import IngestError, ingest_survey

    _stop_as_interrupt()
    try:
        report = ingest_survey(survey, sources, out, is_strict=strict, overwrite=overwrite)
    except KeyboardInterrupt:
        sys.stderr.write("\nastrolab: interrupted; what is finished is kept: type the same again to go on.\n")
        raise typer.Exit(130) from None
    except IngestError as error:
        _print_ingest(error.report, is_json)
        raise
    _print_ingest(report, is_json)
    if not report.is_complete:
        sys.stderr.write("astrolab: rows in is not rows out + rows quarantined: rows were lost.\n")
        raise typer.Exit(1)


def _print_ingest(report, is_json):
    counts = f"rows in {report.rows_in}, rows out {report.rows_out}, rows quarantined {report.rows_quarantined}"
    counts += f" ({report.rows_resumed} were done before)" if report.rows_resumed else ""
    lines = [f"quarantined {record['path']}: {record['reason']}" for record in report.quarantined]
    store = f"store: {report.store_path}" if report.rows_out else "no store was written"
    lines = [report.to_json()] if is_json else [*lines, counts, store]
    sys.stdout.write("\n".join(lines) + "\n")


@app.command()
def templates():
    """List the templates, and each one's parameters with types, defaults and help."""
    from astrolab.runs.templates import list_templates

    console = _console()
    for template in list_templates():
        table = Table("parameter", "type", "default", "meaning", title=f"{template.name}: {template.title}")
        table.title_justify = "left"
        for parameter in template.parameters:
            table.add_row(parameter.name, parameter.type, repr(parameter.default), parameter.help)
        console.print(table)


@app.command()
def run(
    template: Annotated[str, typer.Argument(help="A name that 'astrolab templates' lists.")],
    parameters: Annotated[
        list[str] | None, typer.Option("-p", metavar="KEY VALUE", help="A parameter of the template; repeatable.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The run folder, new or empty.")] = None,
    n_workers: Annotated[int | None, typer.Option(help="Workers of the cluster, as -p n_workers N.")] = None,
    cluster: Annotated[str | None, typer.Option(help="auto, cpu, gpu, gateway, ray or tcp://host:port.")] = None,
    is_json: _AsJson = False,
):
    """Run a template in a run folder of its own."""
    from astrolab.runs import find_template, run_template

    pairs = [_pair(text) for text in parameters or []]
    pairs += [("n_workers", str(n_workers))] if n_workers is not None else []
    pairs += [("cluster", cluster)] if cluster is not None else []
    values = find_template(template).parse(pairs)
    _drive(lambda: run_template(template, run_dir=run_dir, **values), is_json)


@app.command()
def resume(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run that was killed, interrupted or failed.")],
    is_json: _AsJson = False,
):
    """Go on with a run in its folder: what is finished there is not done again."""
    from astrolab.runs import resume_run

    _drive(lambda: resume_run(run_dir), is_json)


def _stop_as_interrupt():
    """Take a batch system's stop for an interrupt: what is finished is kept."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _drive(function, is_json):
    """Call what runs or resumes a template, and show what came of it."""
    from astrolab.runs import RunError
    from astrolab.runs.shown import print_result, to_json

    _stop_as_interrupt()
    try:
        result = function()
    except RunError as error:
        if is_json:
            sys.stdout.write(to_json(error.result) + "\n")
        raise
    except KeyboardInterrupt as interrupt:
        note = "".join(f" {note}" for note in getattr(interrupt, "__notes__", []))
        sys.stderr.write(f"astrolab: interrupted; the run folder holds what was done up to there.{note}\n")
        raise typer.Exit(130) from None
    if is_json:
        sys.stdout.write(to_json(result) + "\n")
    else:
        print_result(result, _console())


@app.command()
def status(
    run_dir: Annotated[Path | None, typer.Argument(help="A run folder; without it, the newest runs.")] = None,
    is_json: _AsJson = False,
):
    """Say how far a run is, from its files: running, finished, failed, interrupted or killed."""
    from astrolab.runs.shown import print_statuses
    from astrolab.runs.status import list_runs, run_status
    from astrolab.settings import settings

    folders = list_runs(settings().runs_dir)[:20] if run_dir is None else [run_dir]
    found = [run_status(folder) for folder in folders]
    if is_json:
        content = [one.to_dict() for one in found]
        sys.stdout.write(json.dumps(content if run_dir is None else content[0]) + "\n")
        return
    if found:
        print_statuses(found, _console())
    else:
        sys.stdout.write(f"there is no run in {settings().runs_dir}\n")


@app.command()
def verify(run_dir: Annotated[Path, typer.Argument(help="A run folder, wherever it was copied to.")]):
    """Compare every file of a run folder with its manifest; exit 1 and name what does not match."""
    from astrolab.runs.manifest import verify_run

    problems = verify_run(run_dir)
    for problem in problems:
        sys.stdout.write(f"{problem.path}: {problem.what}\n")
    if problems:
        raise typer.Exit(1)
    sys.stdout.write(f"{run_dir}: every file matches the manifest\n")


@app.command()
def diff(
    run_a: Annotated[Path, typer.Argument(help="A run folder of rank_anomalies.")],
    run_b: Annotated[Path, typer.Argument(help="Another one.")],
    n_top: Annotated[int, typer.Option(help="Places that count as the top.", min=1)] = 100,
    out: Annotated[Path | None, typer.Option(help="Write every object in either top to this CSV file.")] = None,
    is_json: _AsJson = False,
):
    """Compare the rankings of two runs: how alike, who entered and left the top, and why."""
    from astrolab.runs.compare import compare_runs, print_diff, to_json

    found = compare_runs(run_a, run_b, n_top=n_top)
    if out:
        found.table.to_csv(out, index=False)
    if is_json:
        sys.stdout.write(to_json(found) + "\n")
    else:
        print_diff(found, _console())


@app.command()
def vet(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Run folders of rank_anomalies.")],
    port: Annotated[int, typer.Option(help="Port of the page; 0 takes a free one.", min=0, max=65535)] = 0,
    auth: Annotated[
        Literal["none", "basic", "oauth"], typer.Option(help="Who may come: only you, a password file, OAuth.")
    ] = "none",
    users: Annotated[Path | None, typer.Option(help="The password file of --auth basic.")] = None,
    prefix: Annotated[str, typer.Option(help="The path at which a proxy shows it, if it passes the path on.")] = "",
):
    """Open rankings in the vetting dashboard."""
    from astrolab.dashboards.serve import serve_runs

    serve_runs(run_dirs, port=port, auth=auth, users_path=users, prefix=prefix)


@app.command()
def verdicts(
    run_dir: Annotated[Path, typer.Argument(help="A run folder of rank_anomalies.")],
    format: Annotated[  # noqa: A002 the option's name
        Literal["csv", "json", "parquet", "fits", "votable", "prospect"],
        typer.Option(help="Of the table; prospect is the CSV of DESI's visual inspection."),
    ] = "csv",
    out: Annotated[Path | None, typer.Option(help="The file to write, by default stdout.")] = None,
    source: Annotated[Path | None, typer.Option("--import", help="Store the verdicts of this file instead.")] = None,
):
    """Print what people said of a run's objects, one row a verdict; or import verdicts made elsewhere."""
    from astrolab.stores.catalog import open_catalog
    from astrolab.vetting.exchange import export_verdicts, import_file, verdict_table
    from astrolab.vetting.run_folder import read_run_id

    run_id = read_run_id(run_dir)
    with open_catalog() as catalog:
        if source is not None:
            n_read, n_new = import_file(catalog, run_dir, source)
            sys.stdout.write(f"{n_read} verdicts in {source}: {n_new} stored, {n_read - n_new} were there before\n")
            return
        content = export_verdicts(verdict_table(catalog.verdicts(run_id)), format)
    if out is not None:
        out.write_bytes(content)
        sys.stderr.write(f"the verdicts are in {out}\n")
    elif format in ("parquet", "fits") and sys.stdout.isatty():
        raise ValueError(f"{format} is no text for a terminal, expected --out FILE.")
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


users_app = typer.Typer(help="Say who may vet, and in which role: viewer, vetter, lead or admin.", no_args_is_help=True)
app.add_typer(users_app, name="users")


@users_app.command("add")
def add_user(
    name: Annotated[str, typer.Argument(help="The name to log in with.")],
    file: Annotated[Path, typer.Option(help="The password file; made where there is none.")],
    role: Annotated[str, typer.Option(help="viewer, vetter, lead or admin.")] = "vetter",
):
    """Add a person to a password file, or change them; the password is asked for, or read from stdin."""
    from getpass import getpass

    from astrolab.vetting.passwords import add_user
    from astrolab.vetting.roles import check_role

    check_role(role)
    if sys.stdin.isatty():
        password = getpass(f"Password for {name}: ")
        if getpass("Once more: ") != password:
            raise ValueError("the two passwords differ, expected the same one twice.")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    add_user(file, name, role, password)
    sys.stdout.write(f"{name} is a {role} in {file}\n")


@users_app.command("role")
def set_role(
    name: Annotated[str, typer.Argument(help="The name that OAuth gives.")],
    role: Annotated[str, typer.Argument(help="viewer, vetter, lead or admin.")],
):
    """Give a person who logs in by OAuth a role; it is kept in the catalog."""
    from getpass import getuser

    from astrolab.stores.catalog import open_catalog
    from astrolab.vetting.roles import check_role

    with open_catalog() as catalog:
        catalog.set_role(name, check_role(role), by=getuser())
    sys.stdout.write(f"{name} is a {role}\n")


@app.command()
def doctor():
    """Say what works here: versions, GPU, cluster, stores; and what to install for the rest."""
    from astrolab.runs.environment import examine

    table = Table("what", "state", "advice")
    for row in examine():
        table.add_row(*row)
    _console().print(table)


def _console():
    """Return a console that shows text as it is, and is wide in a pipe, where a log or a program reads."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)
