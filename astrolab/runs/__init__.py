"""Runs: templates executed by papermill, made safe, each in a run folder that can be verified and accounted for."""

from astrolab.runs.manifest import Problem, verify_run
from astrolab.runs.parameters import ParameterError
from astrolab.runs.resume import ResumeError
from astrolab.runs.run import RunError, RunResult, resume_run, run_template
from astrolab.runs.status import RunStatus, run_status
from astrolab.runs.templates import Template, find_template, list_templates

__all__ = [
    "ParameterError",
    "Problem",
    "ResumeError",
    "RunError",
    "RunResult",
    "RunStatus",
    "Template",
    "find_template",
    "list_templates",
    "resume_run",
    "run_status",
    "run_template",
    "verify_run",
]
