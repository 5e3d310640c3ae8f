"""AstroLab: find strange objects in spectroscopic surveys.

The face: every public name, loaded from its module when first used (PEP 562), so that ``import astrolab`` is quick.
"""

from importlib import import_module

__version__ = "0.1.0"

_WHERE = {
    "schema": ["check_spectra", "flux_err", "SchemaError"],
    "compute": ["start_cluster"],
    "lines": ["spectral_lines", "lines_between"],
    "readers.desi": ["read_desi"],
    "readers.sdss": ["read_sdss"],
    "simulation.survey": ["simulate_survey"],
    "simulation.desi_files": ["write_desi_files"],
    "stores.spectra": ["open_spectra", "save_spectra"],
    "stores.tables": ["save_table"],
    "stores.catalog": ["open_catalog"],
    "selection": ["select_objects"],
    "spectra": ["rest_grid", "to_restframe", "normalize_flux", "mask_lines"],
    "models.vae": ["VAE"],
    "models.classifier": ["SpectrumClassifier"],
    "models.pretrained": ["pretrained_vae", "start_vaes"],
    "models.files": ["save_model", "load_model"],
    "training": ["fit", "fit_models", "load_training"],
    "anomaly.ranking": ["rank_anomalies", "score_anomalies", "attach_spectra", "add_columns"],
    "anomaly.measured": ["measured_ranking"],
    "anomaly.scale": ["save_scale", "load_scale"],
    "anomaly.redshifts": ["score_redshifts"],
    "anomaly.absorbers": ["mask_absorbers"],
    "anomaly.troughs": ["find_absorbers"],
    "anomaly.unexplained": ["score_unexplained"],
    "anomaly.rerank": ["rerank", "rerank_features"],
    "anomaly.diff": ["compare_rankings"],
    "anomaly.attribution": ["attribute_anomaly"],
    "anomaly.explanation": ["explain_anomaly"],
    "anomaly.neighbours": ["nearest_ordinary"],
    "redshift.templates": ["open_templates", "save_templates"],
    "redshift.build": ["build_templates", "build_quasar_templates", "labelled_spectra"],
    "redshift.hypotheses": ["scan_redshifts", "chi2_curve"],
    "redshift.classify": ["classify_spectra", "save_redrock"],
    "redshift.attach": ["attach_redshifts"],
    "redshift.posterior": ["redshift_intervals", "redshift_pdf", "bootstrap_redshift"],
    "redshift.matching": ["match_templates"],
    "redshift.measure": ["measure_lines"],
    "ingest": ["ingest_survey"],
    "runs": ["run_template", "resume_run", "run_status", "list_templates", "verify_run"],
    "runs.compare": ["compare_runs"],
    "plots": ["plot_spectrum", "plot_latent", "plot_history", "plot_scores", "plot_gallery", "plot_rank_change"],
    "plots.templates": ["plot_templates"],
    "plots.explanations": ["plot_calibration", "plot_explanation", "plot_reason_gallery"],
    "vetting.campaigns": ["open_campaign"],
    "dashboards.vetting": ["vetting_app"],
    "dashboards.explorer": ["explorer_app"],
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'astrolab' has no attribute '{name}'")
    value = getattr(import_module(f"astrolab.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
