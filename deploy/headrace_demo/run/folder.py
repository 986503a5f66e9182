"""Where a run of the demo lives and what is set for it: folders, `headrace.toml`, `policy.toml`. Starts nothing.

<data-dir>/headrace.toml      settings of the newest run: `headrace status --config <data-dir>/headrace.toml`
<data-dir>/kafka/             the broker's data, kept
<data-dir>/store/, cache/     adapters, as published and as fetched by the agent
<data-dir>/base-<digest>/     base models by recipe: a second start needs no pretraining
<data-dir>/runs/<deployment>/ policy, shop, outbox and logs of one run
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from headrace_demo.base_model.recipe import Recipe
from headrace_demo.run.policy import policy_text
from headrace_streams.settings import PREFIX, Settings

_SETTINGS = """\
# Written by `headrace demo`.
bootstrap = "{bootstrap}"
deployment = "{deployment}"
data_dir = {data_dir}
store = {store}
policy = {policy}
partitions = 1
"""


class Place:
    """One run in a data folder; the deployment, unless named, is the first of `demo-1`, `demo-2` … never used there.

    FileExistsError when a run of that name has been there."""

    def __init__(self, data_dir: Path, seed: int, deployment: str | None = None) -> None:
        self.data_dir, self.seed = data_dir.resolve(), seed
        self.recipe = Recipe(seed=seed)
        runs = self.data_dir / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        number = 1
        while (runs / f"demo-{number}").exists():
            number += 1
        self.deployment = deployment or f"demo-{number}"
        self.run = runs / self.deployment
        self.run.mkdir()
        self.kafka = self.data_dir / "kafka"
        self.database = self.run / "shop.duckdb"
        self.policy = self.run / "policy.toml"
        self.config = self.data_dir / "headrace.toml"

    @property
    def base(self) -> Path:
        return self.recipe.folder(self.data_dir)

    def settings(self, bootstrap: str) -> Settings:
        """Writes policy and settings, and returns the settings."""
        self.policy.write_text(policy_text(self.base, self.database), encoding="utf-8")
        store = self.data_dir / "store"
        text = _SETTINGS.format(
            bootstrap=bootstrap,
            deployment=self.deployment,
            data_dir=_toml(self.data_dir),
            store=_toml(store),
            policy=_toml(self.policy),
        )
        self.config.write_text(text, encoding="utf-8")
        return Settings(
            bootstrap=bootstrap,
            deployment=self.deployment,
            data_dir=self.data_dir,
            store=str(store),
            policy=self.policy,
            partitions=1,
        )

    def command(self, program: str, words: str) -> str:
        """A line for a shell: a command on what this run has kept, whatever HEADRACE_* variables are set there."""
        unset = " ".join(f"-u {name}" for name in sorted(os.environ) if name.startswith(PREFIX))
        return f"{f'env {unset} ' if unset else ''}{program} {words} --config {shlex.quote(str(self.config))}"

    def afterwards(self, program: str, own_broker: bool) -> str:
        """The line that looks around; it first starts the broker again if it was the run's own. `status` comes last: it ends with
        1, as no worker runs any more, and says so."""
        return " && ".join(self.command(program, words) for words in ["kafka start"] * own_broker + ["releases", "status"])


def _toml(text: str | Path) -> str:
    return json.dumps(str(text))  # a JSON string is a TOML basic string
