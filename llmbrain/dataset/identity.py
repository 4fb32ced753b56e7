"""Whether a folder holds the same model, the same corpus and the same settings."""

from ..exceptions import DatasetError

_OTHER_LABEL = {"model": " or another label, with subject= (--subject) or session= (--session),"}
_IDENTITY = {"model": ("weights_hash", "id"), "corpus": ("hash", "name")}  # the first that both know decides


def check_same(part, mine, theirs, root):
    """Refuse another model or corpus (``part``) than the one that the study in ``root`` has."""
    keys, mine, theirs = _IDENTITY[part], mine[part], theirs.get(part, {})
    key = next((key for key in keys if mine.get(key) and theirs.get(key)), keys[-1])
    if mine.get(key) != theirs.get(key):
        label = _OTHER_LABEL.get(part, "")
        raise DatasetError(
            f"{root} holds a study of another {part} ({_who(theirs)}); this one is {_who(mine)}. "
            f"Choose another folder,{label} or remove that one."
        )


def check_settings(mine, theirs, root):
    """Refuse other settings of recording than those of the study in a folder."""
    differ = [
        f"{key}={theirs.get(key)!r} there, {value!r} now"
        for key, value in mine.items()
        if theirs.get(key, False if value is False else None) != value
    ]
    if differ and theirs:
        raise DatasetError(
            f"{root} was recorded with other settings ({'; '.join(differ)}). "
            "Use the same settings to continue it, or choose another folder."
        )


def _who(part):
    key = part.get("weights_hash") or part.get("hash")
    return f"{part.get('id') or part.get('name')!r}" + (f", hash {key}" if key else "")
