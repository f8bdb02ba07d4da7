"""The one reader of `pulumi.Config`: a `StackConfig`, or one sentence for each key that is wrong.

Secrets stay `Output[str]`. `python -m components.config_reader` prints the table of keys for components/README.md.
"""

import difflib
import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args, get_origin

import pulumi
from pulumi.runtime import config as given
from pydantic import ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from components.config import Key, RuleError, Section, StackConfig, keys

PINECONE_API_KEY = "pineconeApiKey"
# Load balancers and target groups allow 32 characters: "aviary-", the stack, "-alb-" and Pulumi's seven at random.
STACK_NAME_LIMIT_CHARS = 12


class ConfigurationError(pulumi.RunError):
    """What is wrong with the configuration, one sentence a line. Pulumi prints it without a traceback."""


def read() -> StackConfig:
    """The configuration of the current stack; raises ConfigurationError."""
    bag, aws, known = pulumi.Config(), pulumi.Config("aws"), {key.name: key for key in keys()}
    problems = [_unknown(bag.name, name, known) for name in _names(bag.name) - known.keys() - {PINECONE_API_KEY}]
    values: dict[str, Any] = {}
    for key in known.values():
        if (text := bag.get(key.name)) is not None:
            _section(values, key)[key.field] = _parse(key, text)
    stack, region, api_key = pulumi.get_stack(), aws.get("region"), bag.get_secret(PINECONE_API_KEY)
    if len(stack) > STACK_NAME_LIMIT_CHARS:
        problems.append(
            f"the stack's name {stack!r} is longer than {STACK_NAME_LIMIT_CHARS} characters, for which the names of "
            "load balancers leave no room; run `pulumi stack rename` with a shorter one"
        )
    if not region:
        problems.append(
            "aws:region is missing, but it says where to build; run `pulumi config set aws:region us-east-1`"
        )
    if not aws.get("defaultTags"):
        problems.append(
            "aws:defaultTags is missing, but every resource must say whose it is; "
            f"run `pulumi config set --path aws:defaultTags.tags.project {bag.name}`"
        )
    if api_key is None:
        problems.append(
            f"{bag.name}:{PINECONE_API_KEY} is missing, but the index and its services need it; "
            f"run `pulumi config set --secret {PINECONE_API_KEY}`"
        )
    try:
        config = StackConfig(**values, region=region or "-", pinecone_api_key=api_key or pulumi.Output.from_input(""))
    except ValidationError as error:
        problems += [_sentence(bag.name, known, found) for found in error.errors()]
    else:
        problems += _misplaced(bag.name, config)
    if problems:
        raise ConfigurationError("\n".join(sorted(problems)))
    return config


def table() -> str:
    """All keys as a Markdown table, for components/README.md."""
    lines = ["| key | values | default | what it decides |", "|---|---|---|---|"]
    lines += [f"| `{k.name}` | {_values(k)} | {_shown(k.default)} | {k.info.description} |" for k in keys()]
    lines.append(f"| `{PINECONE_API_KEY}` | secret | none | API key of Pinecone |")
    return "\n".join(lines)


def _misplaced(project: str, config: StackConfig) -> list[str]:
    """A load balancer takes certificates of its own region only, and AWS says so after the database is made."""
    given_arn = config.web.certificate_arn
    # Server certificates of IAM, which load balancers take too, have no region.
    if not given_arn or given_arn.split(":")[3] in ("", config.region):
        return []
    where = f"it must be in {config.region}, where the load balancer is (aws:region)"
    mend = "run `pulumi config set webCertificateArn` with one that was made there"
    return [f"{project}:webCertificateArn is {given_arn!r}, but {where}; {mend}"]


def _names(project: str) -> set[str]:
    """The keys of this project that the stack gives, known or not: `pulumi.Config` itself cannot list them."""
    everything = given.get_config_env() | given.CONFIG.get()
    return {name.removeprefix(f"{project}:") for name in everything if name.startswith(f"{project}:")}


def _section(values: dict[str, Any], key: Key) -> dict[str, Any]:
    """The dictionary that holds the key's field; a section begins with its own defaults."""
    if not key.section:
        return values
    default = StackConfig.model_fields[key.section].default
    if not isinstance(default, Section):
        raise TypeError(f"{key.section} is not a section")
    section: dict[str, Any] = values.setdefault(key.section, default.model_dump())
    return section


def _parse(key: Key, text: str) -> object:
    """Pulumi keeps every value as text. What is not JSON stays text, and the model says what it should have been."""
    if isinstance(key.default, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unknown(project: str, name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, [*known, PINECONE_API_KEY], n=1)
    hint = f", perhaps {near[0]} was meant" if near else ""
    return f"{project}:{name} is no key of this program{hint}; run `pulumi config rm {name}`"


def _sentence(project: str, known: Mapping[str, Key], error: ErrorDetails) -> str:
    location = [str(part) for part in error["loc"] if not isinstance(part, int)]
    value, rule, example = error["input"], re.sub(r"^(Input|String|Tuple) should ", "it must ", error["msg"]), None
    if isinstance(broken := error.get("ctx", {}).get("error"), RuleError):
        location, rule, example = [*location, broken.field], str(broken), broken.example
        value = value[broken.field]
    key = known[to_camel("_".join(location))]
    rule = rule.replace("a valid tuple", "a list")
    first = key.default[0] if isinstance(key.default, tuple) and key.default else key.default
    example = example or (key.info.examples or [first])[0]
    if error["type"] == "string_pattern_mismatch":
        rule = f"it must look like {example}"
    path = f"--path '{key.name}[0]'" if isinstance(key.default, tuple) else key.name
    return f"{project}:{key.name} is {_text(value)!r}, but {rule}; run `pulumi config set {path} {_text(example)}`"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _values(key: Key) -> str:
    choices = get_args(key.info.annotation)
    if get_origin(key.info.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in choices)
    bounds = {type(rule).__name__: rule for rule in key.info.metadata}
    if "Ge" in bounds and "Le" in bounds:
        return f"{bounds['Ge'].ge} to {bounds['Le'].le}"
    return (
        f"from {bounds['Ge'].ge}"
        if "Ge" in bounds
        else {tuple: "list", str: "text", bool: "`true`, `false`"}.get(type(key.default), "")
    )


def _shown(value: object) -> str:
    return "empty" if value in ("", ()) else f"`{_text(value)}`"


if __name__ == "__main__":
    print(table())
