"""Whether a success rate has fallen: the Page-Hinkley test over right and wrong answers, one by one. Pure; knows no bucket.

Page, "Continuous inspection schemes" (1954), and Hinkley (1971). With a fall of `fall` in the rate to be found, the sum of
(mean so far - answer - fall / 2) goes down on average while nothing has changed and up once the rate has fallen by more than
half of `fall`; the alarm is that it stands ALARM above its least.
"""

from __future__ import annotations

from msgspec import Struct

# A rate of 0.8 that stays where it is comes so high once in some 10^4 excursions of the sum (exp(-fall x ALARM / variance)); one
# that falls by 0.3 does after about 110 answers, one that falls by 0.05 after about 1200.
ALARM = 30.0


class PageHinkley(Struct, frozen=True):
    """What the test remembers: how many answers, their mean, the sum and its least."""

    answers: int = 0
    mean: float = 0.0
    sum: float = 0.0
    least: float = 0.0

    def add(self, right: bool, fall: float) -> PageHinkley:
        """With one answer more."""
        answers = self.answers + 1
        mean = self.mean + (right - self.mean) / answers
        total = self.sum + mean - right - fall / 2
        return PageHinkley(answers, mean, total, min(self.least, total))

    @property
    def alarm(self) -> bool:
        return self.sum - self.least > ALARM


UNTESTED = PageHinkley()  # msgspec leaves a default out when it is this very object
