"""Where matrix products run: the processor, or a GPU."""

import torch


def choose_device(device):
    """Return the device that a word means.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"``, or ``"auto"`` for a GPU where there is one.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If it is no device, or a GPU that is not there.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    has_gpu = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    if str(device).split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"device is '{device}', expected one of: auto, cpu, cuda.")
    if str(device).startswith("cuda") and not has_gpu:
        raise ValueError(f"device is '{device}', but torch sees no GPU here; give device='cpu' or 'auto'.")
    return torch.device(device)
