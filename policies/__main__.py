"""The policy pack that Pulumi's engine starts. The rules themselves are in rules.py and stack_rules.py."""

import sys
from pathlib import Path

from pulumi_policy import EnforcementLevel, PolicyPack

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository: this folder is a package of it

from policies.pack import policies

PolicyPack(name="aviary", enforcement_level=EnforcementLevel.MANDATORY, policies=policies())
