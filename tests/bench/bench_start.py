"""How long `import headrace` and `headrace --help` take, as whole processes, beside a Python that does nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from bench import common


def milliseconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    cases = {
        "python -c pass": ("-c", "pass"),
        "import headrace": ("-c", "import headrace"),
        "import headrace, headrace.Recorder": ("-c", "import headrace; headrace.Recorder"),
        "headrace --help": ("-c", "from headrace_cli.main import invoke; invoke(['--help'])"),
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    for command in cases.values():
        milliseconds(*command)  # files into the page cache
    for _ in range(common.RUNS):
        for name, command in cases.items():
            found[name].append(milliseconds(*command))
    for name, values in found.items():
        common.line(name, values, "ms", ("an empty Python", found["python -c pass"]))


if __name__ == "__main__":
    main()
