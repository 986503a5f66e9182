"""What people may set about evidence. Knows no fold and no formula."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from headrace_streams.policy import Policy


class EvidencePolicy(Policy):
    """How sure one must be before a head is served, and how long one waits."""

    claim: Literal["per_release", "strict", "plain"] = Field(
        "per_release",
        description="of promotions of what is no better: per_release, over a bucket's life at most `alpha` for each promotion and"
        " one; strict, their share is at most `alpha`; plain, `alpha` for each candidate and nothing over time",
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="how much error the claim allows")
    beta: float = Field(0.05, gt=0, lt=1, description="chance of declining, or of a harm alarm, without reason, for each head")
    keep: int = Field(2, ge=1, le=4, description="heads that wait for evidence beside each other, the newest among them")
    min_groups: int = Field(10, ge=1, description="groups without which nothing is decided for or against a head")
    max_groups: int = Field(64, ge=1, le=1000, description="groups of one look that count")
    horizon: int = Field(20, ge=1, description="looks after which a head goes before a person; a promotion is watched as long")
    clip_sd: float = Field(3.0, gt=0, description="standard deviations of old groups at which a difference is cut off")
    first_scale: float = Field(
        0.5,
        ge=0.05,
        le=2,
        description="nats a token at which it is cut off without old groups, if `worst_group` is less; in suites, always",
    )
    worst_group: float = Field(
        1.0,
        ge=0.05,
        le=10,
        description="nats a token: no difference is cut off before it, so that rare groups with a large loss count",
    )
    min_useful_loss: float = Field(0.02, gt=0, description="nats a token: a smaller gain is not worth a release")
    min_useful_success: float = Field(0.01, gt=0, lt=1, description="share of successes: a smaller gain is not worth a release")
    harm_margin: float = Field(0.02, gt=0, description="nats a token: by so much worse is harm")
    accept_selected_rows: bool = Field(
        False, description="count rows that feedback selected as evidence: it then speaks of where the served model was corrected"
    )

    def useful(self, measure: str) -> float:
        """The least gain in a measure that is worth a release."""
        return self.min_useful_success if measure == "success" else self.min_useful_loss
