"""The stages of this package: the topology's rows with their policies and folds. Live tasks and replay run this table.

A rule version is raised when the code would decide otherwise under the same policy; the one before stays, so that logs that it
wrote still verify, and a recorded history of each version is in tests/histories.
"""

from __future__ import annotations

from headrace_processors.attribute import fold as attribute
from headrace_processors.attribute.policy import VERSION_1 as ATTRIBUTE_1
from headrace_processors.attribute.policy import AttributePolicy
from headrace_processors.curate import changelog as curate_changelog
from headrace_processors.curate import fold as curate
from headrace_processors.curate import policy as curate_policy
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.intake import fold as intake
from headrace_processors.intake.policy import VERSION_3 as INTAKE_3
from headrace_processors.intake.policy import VERSION_4 as INTAKE_4
from headrace_processors.intake.policy import IntakePolicy
from headrace_processors.intake.version_1 import fold as intake_1
from headrace_processors.link import fold as link
from headrace_processors.link import state as link_state
from headrace_processors.link import version_1 as link_1
from headrace_processors.link.policy import VERSION_1 as LINK_1
from headrace_processors.link.policy import LinkPolicy
from headrace_processors.release import evidence_state
from headrace_processors.release import fold as release
from headrace_processors.release.policy import VERSION_4 as RELEASE_4
from headrace_processors.release.policy import VERSIONS_1_TO_3 as RELEASE_1_TO_3
from headrace_processors.release.policy import ReleasePolicy
from headrace_processors.reward import fold as reward
from headrace_processors.reward import upcast as reward_upcast
from headrace_processors.reward.policy import VERSION_1 as REWARD_1
from headrace_processors.reward.policy import VERSION_3 as REWARD_3
from headrace_processors.reward.policy import VERSION_4 as REWARD_4
from headrace_processors.reward.policy import RewardPolicy
from headrace_processors.reward.version_1 import fold as reward_1
from headrace_schemas.topology import STAGES_BY_NAME
from headrace_streams.runtime.provenance import six_headers
from headrace_streams.runtime.stage import FoldStage, RuleVersion

STAGES: tuple[FoldStage, ...] = (
    FoldStage(
        topology=STAGES_BY_NAME["intake"],
        policy=IntakePolicy,
        versions={
            1: RuleVersion(intake_1.build, provenance=six_headers),
            2: RuleVersion(intake.build_2, absent=INTAKE_3),
            3: RuleVersion(intake.build_3, absent=INTAKE_3),  # it knew of no sessions: its policy has none
            4: RuleVersion(intake.build_4, absent=INTAKE_4),
            5: RuleVersion(intake.build),
        },  # anybody may write its input
    ),
    FoldStage(
        topology=STAGES_BY_NAME["link"],
        policy=LinkPolicy,
        versions={
            1: RuleVersion(link_1.build, absent=LINK_1, provenance=six_headers, state_version=1),
            2: RuleVersion(link.build_2, checks_writers=True),
            3: RuleVersion(link.build, checks_writers=True),
        },
        state_version=2,
        state_upcasts={1: link_state.upcast},
    ),
    FoldStage(
        topology=STAGES_BY_NAME["attribute"],
        policy=AttributePolicy,
        versions={
            1: RuleVersion(attribute.build_1, absent=ATTRIBUTE_1, checks_writers=True, later_writers=("reward",)),
            2: RuleVersion(attribute.build, checks_writers=True),
        },
    ),
    FoldStage(
        topology=STAGES_BY_NAME["reward"],
        policy=RewardPolicy,
        versions={
            1: RuleVersion(reward_1.build, absent=REWARD_1, provenance=six_headers, state_version=1),
            2: RuleVersion(reward.build_2, absent=REWARD_3, checks_writers=True, later_writers=("attribute",)),
            3: RuleVersion(reward.build_3, absent=REWARD_3, checks_writers=True, later_writers=("attribute",)),
            4: RuleVersion(reward.build_4, absent=REWARD_4, checks_writers=True),
            5: RuleVersion(reward.build, checks_writers=True),
        },
        state_version=2,
        state_upcasts={1: reward_upcast.upcast},
    ),
    FoldStage(
        topology=STAGES_BY_NAME["curate"],
        policy=CuratePolicy,
        versions={
            1: RuleVersion(curate.build_1, absent=curate_policy.VERSION_1, provenance=six_headers),
            2: RuleVersion(curate.build_2, absent=curate_policy.VERSION_2, checks_writers=True),
            3: RuleVersion(curate.build_3, absent=curate_policy.VERSION_3, checks_writers=True),
            4: RuleVersion(curate.build_4, absent=curate_policy.VERSION_4, checks_writers=True),
            5: RuleVersion(curate.build, checks_writers=True),
        },
        state_version=3,
        state_upcasts={1: curate_changelog.upcast_1, 2: curate_changelog.upcast_2},
    ),
    FoldStage(
        topology=STAGES_BY_NAME["release"],
        policy=ReleasePolicy,
        versions={
            1: RuleVersion(release.build_2, absent=RELEASE_1_TO_3, provenance=six_headers),
            2: RuleVersion(release.build_2, absent=RELEASE_1_TO_3, checks_writers=True),
            3: RuleVersion(release.build_3, absent=RELEASE_1_TO_3, checks_writers=True),
            4: RuleVersion(release.build_4, absent=RELEASE_4, checks_writers=True),
            5: RuleVersion(release.build, checks_writers=True),
        },
        state_version=2,
        state_upcasts={1: evidence_state.upcast},
    ),
)
