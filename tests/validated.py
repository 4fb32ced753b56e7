"""The official BIDS validator with its strictest settings."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Warnings that a study of a model cannot avoid: it does not know its authors, NIfTI has no unit for tokens, and the
# source of masks and activations is a model, which is no file of the dataset.
_NOT_OURS = (
    {"code": "TOO_FEW_AUTHORS"},
    {"code": "NIFTI_UNIT"},
    {"code": "SIDECAR_KEY_RECOMMENDED", "subCode": "Sources"},
)


def bids_issues(folder, scratch):
    """Errors and warnings of a dataset: ``(code, part, file)``; skips the test if there is no validator."""
    validator = shutil.which("bids-validator-deno") or Path(sys.executable).with_name("bids-validator-deno")
    if not Path(validator).exists():
        pytest.skip("bids-validator-deno is not installed (pip install bids-validator-deno)")
    strict = {"error": [{"severity": "warning"}], "ignore": list(_NOT_OURS)}
    (scratch / "strict.json").write_text(json.dumps(strict))
    options = ("--config", scratch / "strict.json", "--datasetTypes", "derivative", "--max-rows", "-1", "--recursive")
    command = [validator, "--json", *map(str, options), str(folder)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120)
    issues = json.loads(out.stdout)["issues"]["issues"]
    ours = [issue for issue in issues if not any(known.items() <= issue.items() for known in _NOT_OURS)]
    assert (out.returncode == 0) == (not ours)
    return [(issue["code"], issue.get("subCode"), issue.get("location")) for issue in ours]
