"""A hash for each value of a JSON file, which shows whether the file was edited or damaged."""

import hashlib
import json

from .contents import as_read

KEY_HASHES = "KeyHashes"


def with_hashes(content):
    """Add the hash of each value to a dict that is to be written as JSON; other programs may add further keys.

    Examples
    --------
    >>> with_hashes({"n_networks": 3})
    {'n_networks': 3, 'KeyHashes': {'n_networks': '4e07408562bedb8b'}}
    """
    content = {key: value for key, value in as_read(content).items() if key != KEY_HASHES}
    return {**content, KEY_HASHES: {key: _hash(value) for key, value in content.items()}}


def changed_key(content):
    """Name of a key whose value has changed since :func:`with_hashes`, or an empty text.

    Examples
    --------
    >>> changed_key({**with_hashes({"n_networks": 3}), "n_networks": 4})
    'n_networks'
    """
    known = content.get(KEY_HASHES)
    if not isinstance(known, dict) or not known:
        return KEY_HASHES
    return next((key for key, made in known.items() if key not in content or _hash(content[key]) != made), "")


def _hash(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
