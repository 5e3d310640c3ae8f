"""Runs: templates executed by papermill, made safe, each in a run folder that can be verified and accounted for."""

from astrolab.runs.manifest import Problem, verify_run
from astrolab.runs.parameters import ParameterError
from astrolab.runs.run import RunError, RunResult, run_template
from astrolab.runs.templates import Template, find_template, list_templates

__all__ = [
    "ParameterError",
    "Problem",
    "RunError",
    "RunResult",
    "Template",
    "find_template",
    "list_templates",
    "run_template",
    "verify_run",
]
