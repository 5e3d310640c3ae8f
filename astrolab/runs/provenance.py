"""Where a run comes from: its inputs with their hashes, its code, environment and device, written as an RO-Crate."""

import json
from hashlib import sha256
from pathlib import Path

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from astrolab.runs.manifest import hash_file
from astrolab.runs.paths import CRATE, is_remote, matching_paths, store_of
from astrolab.stores.publish import write_whole

# up to here every byte of an input is read; above, the names and sizes of its files and the content of their metadata
FULL_HASH_BYTES = 2 * 1024**3


def describe_inputs(template, values):
    """Describe the inputs of a run, with their hashes.

    Parameters
    ----------
    template : Template
        The template.
    values : dict
        Value of every parameter, inputs resolved.

    Returns
    -------
    list of dict
        ``parameter``, ``path``, ``size`` in bytes, ``n_files``, ``sha256`` and ``hashed`` (what the hash covers).
    """
    inputs = []
    for parameter in template.parameters:
        value = values[parameter.name]
        if parameter.is_input and value is not None:
            paths = value if isinstance(value, list) else [value]
            inputs += [{"parameter": parameter.name, "path": path} | _describe(path) for path in paths]
    return inputs


def write_crate(run_dir, template, record, values, inputs, entries):
    """Write the provenance of a run as ``ro-crate-metadata.json``.

    Parameters
    ----------
    run_dir : pathlib.Path
        The run folder.
    template : Template
        The template.
    record : dict
        What ``run.json`` holds.
    values : dict
        Value of every parameter.
    inputs : list of dict
        As `describe_inputs` gives.
    entries : dict
        Relative path to hash and size of every product.
    """
    crate = ROCrate()
    crate.name = f"{template.title} ({template.name})"
    crate.description = f"A run of AstroLab's template {template.name}: {record['status']}."
    crate.root_dataset["conformsTo"] = {"@id": "https://w3id.org/ro/wfrun/process/0.5"}
    outputs = _add_outputs(crate, entries)
    software = [_add_software(crate, name, number) for name, number in record["versions"].items()]
    action = {
        "@type": "CreateAction",
        "name": f"astrolab run {template.name}",
        "startTime": record["started"],
        "endTime": record["finished"],
        "actionStatus": {"@id": f"http://schema.org/{_action_status(record['status'])}"},
        "description": f"device: {record['device']}; seed: {values['seed']}; n_workers: {record['n_workers']}",
        "instrument": {"@id": _add_code(crate, record, software).id},
        "object": [{"@id": _add_input(crate, given).id} for given in inputs]
        + [{"@id": _add_value(crate, name, value).id} for name, value in values.items()],
        "result": [{"@id": output.id} for output in outputs],
    }
    if record.get("error"):
        action["error"] = record["error"]
    crate.root_dataset["mentions"] = crate.add(ContextEntity(crate, "#run", properties=action))
    write_whole(run_dir / CRATE, (json.dumps(crate.metadata.generate(), indent=1, ensure_ascii=False) + "\n").encode())


def _describe(path):
    if is_remote(path):
        return {"hashed": "nothing: a remote address"}
    found = [Path(path)] if Path(path).exists() else matching_paths(path)
    if len(found) == 1 and found[0].is_file() and found[0].stat().st_size <= FULL_HASH_BYTES:
        return {"size": found[0].stat().st_size, "n_files": 1, "sha256": hash_file(found[0]), "hashed": "every byte"}
    root = found[0] if len(found) == 1 else Path(path).parent
    files = sorted(file for top in found for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file())
    sizes = [file.stat().st_size for file in files]
    is_full = sum(sizes) <= FULL_HASH_BYTES
    lines = [
        f"{hash_file(file) if is_full or file.name == 'zarr.json' else ''} {size} {file.relative_to(root).as_posix()}\n"
        for file, size in zip(files, sizes, strict=True)
    ]
    hashed = (
        "sha256, size and name of every file" if is_full else "size and name of every file, sha256 of every zarr.json"
    )
    digest = sha256("".join(lines).encode()).hexdigest()
    return {"size": sum(sizes), "n_files": len(files), "sha256": digest, "hashed": hashed}


def _action_status(status):
    return "CompletedActionStatus" if status == "succeeded" else "FailedActionStatus"


def _add_outputs(crate, entries):
    """Add each product; a Zarr store, whose files are many, is one dataset."""
    outputs, stores = [], {}
    for path, entry in entries.items():
        store = store_of(path)
        if store is None:
            about = {"name": path, "contentSize": str(entry["size"]), "sha256": entry["sha256"]}
            outputs.append(crate.add_file(dest_path=path, properties=about))
        else:
            stores.setdefault(store, []).append(f"{entry['sha256']} {entry['size']} {path}\n")
    for store, lines in stores.items():
        about = {"name": store, "sha256": sha256("".join(lines).encode()).hexdigest()}
        about["description"] = f"Zarr store of {len(lines)} files, each in manifest.json"
        outputs.append(crate.add_dataset(dest_path=store, properties=about))
    return outputs


def _add_software(crate, name, number):
    about = {"@type": "SoftwareApplication", "name": name, "softwareVersion": number}
    return crate.add(ContextEntity(crate, f"#software-{name}", properties=about))


def _add_code(crate, record, software):
    code = record["code"]
    commit = code.get("git_commit", "")
    about = {
        "@type": "SoftwareApplication",
        "name": f"AstroLab template {record['template']}",
        "softwareVersion": f"{code['astrolab']}{' git ' + commit if commit else ''}",
        "sha256": record["template_sha256"],
        "softwareRequirements": [{"@id": one.id} for one in software],
    }
    if commit:
        about["description"] = "the clone had changes not committed" if code["git_is_dirty"] else "a clean clone"
    return crate.add(ContextEntity(crate, f"#template-{record['template']}", properties=about))


def _add_input(crate, given):
    about = {"@type": "CreativeWork", "name": Path(given["path"]).name, "url": given["path"]}
    about["description"] = f"parameter {given['parameter']}; hash covers: {given['hashed']}"
    if "sha256" in given:
        about |= {"sha256": given["sha256"], "contentSize": str(given["size"])}
    identifier = f"#input-{given['parameter']}-{sha256(given['path'].encode()).hexdigest()[:8]}"
    return crate.add(ContextEntity(crate, identifier, properties=about))


def _add_value(crate, name, value):
    about = {"@type": "PropertyValue", "name": name, "value": value if isinstance(value, str) else json.dumps(value)}
    return crate.add(ContextEntity(crate, f"#parameter-{name}", properties=about))
