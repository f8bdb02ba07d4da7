"""How long to look: some seconds with fixed seeds in `make test`, minutes with new ones in `make model`."""

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "model",
    derandomize=True,
    database=None,
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
)
settings.register_profile(
    "model-long",
    settings.get_profile("model"),
    derandomize=False,
    max_examples=3_000,
    stateful_step_count=60,
    print_blob=True,
)


def is_long() -> bool:
    """Whether `--hypothesis-profile=model-long` was given."""
    return settings.get_current_profile_name() == "model-long"


def profile() -> settings:
    """The one to run with."""
    return settings.get_profile("model-long" if is_long() else "model")
