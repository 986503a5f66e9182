"""How to add what is missing to the Headrace that runs. Knows where it was installed from, not what an extra is for."""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from urllib.parse import urlsplit
from urllib.request import url2pathname


def pip_line(extra: str = "") -> str:
    """The shell command that installs Headrace with an extra. What came from a folder, such as a clone, names that folder: an
    index may not have it, or another version of it."""
    try:
        text = metadata.distribution("headrace").read_text("direct_url.json")  # written by pip, after PEP 610
    except metadata.PackageNotFoundError:
        text = None
    origin = json.loads(text) if text else {}
    what, option = "headrace", ""
    if "dir_info" in origin and origin["url"].startswith("file:"):
        what = url2pathname(urlsplit(origin["url"]).path)
        option = "-e " if origin["dir_info"].get("editable") else ""
    return f"pip install {option}{shlex.quote(f'{what}[{extra}]' if extra else what)}"
