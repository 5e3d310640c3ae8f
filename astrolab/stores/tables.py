"""Tables as files that are whole, or not there."""

import io
from pathlib import Path

from pandas.api.types import is_numeric_dtype

from astrolab.stores.publish import write_whole


def save_table(table, path, *, keep_index=False):
    """Save a table as Parquet (with a checksum on every page) or CSV, under its name only when it is whole.

    Parameters
    ----------
    table : pandas.DataFrame
        Any; identifiers stay integers.
    path : path-like
        A name that ends in ``.parquet`` or ``.csv``.
    keep_index : bool, optional
        Save the index, too.

    Raises
    ------
    ValueError
        If the name ends otherwise.
    OSError
        If it cannot be written; a file that was there before stays as it was.

    Examples
    --------
    >>> import tempfile, pandas as pd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_table(pd.DataFrame({"targetid": [39627322701128423]}), f"{folder}/one.parquet")
    ...     pd.read_parquet(f"{folder}/one.parquet")["targetid"].tolist()
    [39627322701128423]
    """
    suffix = Path(path).suffix
    if suffix == ".parquet":
        file = io.BytesIO()
        # a dictionary of numbers that seldom repeat takes as long as all else, and more so the more rows there are
        texts = [str(name) for name, dtype in table.dtypes.items() if not is_numeric_dtype(dtype)]
        table.to_parquet(file, index=keep_index, write_page_checksum=True, use_dictionary=texts)
        content = file.getvalue()
    elif suffix == ".csv":
        content = table.to_csv(index=keep_index).encode()
    else:
        raise ValueError(f"save_table got '{path}', expected a name that ends in .parquet or .csv.")
    write_whole(path, content)
