"""A pip that prints what it is told to and installs from nowhere, so that `make install` runs without network or minutes.

`PYTHONPATH=folder` puts it before the real one. It may leave a script and a list of import folders in the environment that it
"installs" into. Knows no package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_MAIN = """
import pathlib, sys, time
folder = pathlib.Path({folder!r})
(folder / "called").open("a").write(" ".join(sys.argv[1:]) + "\\n")
for line in {lines!r}:
    if isinstance(line, float):
        time.sleep(line)
    else:
        print(line)
for name, text in {scripts!r}.items():
    script = pathlib.Path(sys.prefix, "bin", name)
    script.write_text(text.replace("PYTHON", sys.executable))
    script.chmod(0o755)
if {imports!r}:
    packages = pathlib.Path(sys.prefix, "lib", "python%d.%d" % sys.version_info[:2], "site-packages")
    (packages / "installed.pth").write_text("".join(path + "\\n" for path in {imports!r}))
sys.exit({code})
"""


def write(
    folder: Path,
    lines: Sequence[str | float] = (),
    *,
    code: int = 0,
    scripts: dict[str, str] | None = None,
    imports: Sequence[str] = (),
) -> Path:
    """Makes it in `folder`: it prints `lines` (a number: a pause in seconds), writes `scripts` into bin/, exits with `code`.

    Returns the file that gets its arguments, a line for each call."""
    (folder / "pip").mkdir(parents=True)
    (folder / "pip" / "__init__.py").touch()
    text = _MAIN.format(folder=str(folder), lines=list(lines), code=code, scripts=scripts or {}, imports=list(imports))
    (folder / "pip" / "__main__.py").write_text(text)
    return folder / "called"
