"""Settings that more than one service has. Each service composes its own frozen class from these, in `main()`.

Everything comes from environment variables named `AVIARY_…`; secrets are `SecretStr`, so they do not print.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from aviary.chunking import FEWEST_TOKENS, MODEL_TOKENS, MOST_CHUNKS, Chunking
from aviary.source import DEFAULT_CHUNKING, DIMENSION, MODEL


class Settings(BaseSettings):
    """Base: frozen, `AVIARY_` prefix, empty variables count as unset. An error names the setting, not its value: what
    was given may hold a secret."""

    model_config = SettingsConfigDict(
        env_prefix="AVIARY_",
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="DEBUG, INFO, WARNING or ERROR"
    )
    aws_region: str = Field(default="us-east-1", validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"))


class HealthSettings(Settings):
    """Where a service without a web server of its own answers /healthz, /readyz and /stats."""

    health_host: str = "0.0.0.0"  # noqa: S104 - inside a task the health check comes from outside the process
    health_port: int = Field(
        default=8080, ge=0, le=65_535, description="of /healthz, /readyz and /stats; 0 picks a free port"
    )


class DatabaseSettings(Settings):
    """How to reach Postgres. With `postgres_auth=iam` the password in the DSN is unused: each connection gets a
    fresh IAM token and must verify the server's certificate against `postgres_root_cert`."""

    postgres_dsn: SecretStr = Field(description="postgresql://user@host:5432/database")
    postgres_auth: Literal["dsn", "iam"] = Field(
        default="dsn", description="iam: a fresh IAM token for each connection, over TLS that is verified"
    )
    postgres_root_cert: Path | None = Field(default=None, description="file of the certificates that iam verifies by")

    @field_validator("postgres_dsn")
    @classmethod
    def _readable(cls, dsn: SecretStr) -> SecretStr:
        """libpq's own complaint about a connection string quotes it, password and all."""
        from psycopg import ProgrammingError  # noqa: PLC0415 - Emu has these settings' module and no psycopg
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - as above

        try:
            conninfo_to_dict(dsn.get_secret_value())
        except ProgrammingError:
            raise ValueError("is no connection string; write postgresql://user@host:5432/database") from None
        return dsn


class QueueSettings(Settings):
    """Where changes travel. Endpoints come from the AWS SDK's own AWS_ENDPOINT_URL_SQS and _SNS."""

    queue_url: str = Field(description="FIFO queue of changes; AWS_ENDPOINT_URL_SQS for another endpoint than AWS's")
    dlq_url: str = Field(default="", description="FIFO queue of dead letters")


class IndexSettings(Settings):
    """Which index. With `index_host` the SDK asks the control plane nothing."""

    pinecone_api_key: SecretStr = Field(validation_alias=AliasChoices("PINECONE_API_KEY", "AVIARY_PINECONE_API_KEY"))
    index_host: str = Field(description="http(s)://… of the index's data plane")
    model: str = Field(default=MODEL, description="loaded at the start")
    dimension: int = Field(default=DIMENSION, description="numbers of a vector of that model")
    models: Annotated[dict[str, Path], NoDecode] = Field(
        default={},
        description="more models that a source may have: NAME=FOLDER, with commas between",
    )

    @field_validator("models", mode="before")
    @classmethod
    def _named_folders(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        pairs = [part.partition("=") for part in given.split(",") if part.strip()]
        if not all(name.strip() and folder.strip() for name, _, folder in pairs):
            raise ValueError("must be NAME=FOLDER, with commas between, such as small=/models/small")
        return {name.strip(): folder.strip() for name, _, folder in pairs}


class ChunkSettings(Settings):
    """How texts that the model cannot read at once are cut. Part of what a text's hash stands for, so every service that
    makes hashes must have the same; Emu is told by each message."""

    chunk_tokens: int = Field(
        default=DEFAULT_CHUNKING.tokens,
        ge=FEWEST_TOKENS,
        le=MODEL_TOKENS,
        description="tokens of a text that make one vector; same in Pelican and frontend",
    )
    chunk_overlap_tokens: int = Field(
        default=DEFAULT_CHUNKING.overlap, ge=0, description="of these, shared with the vector before; at most a quarter"
    )
    max_chunks: int = Field(
        default=DEFAULT_CHUNKING.most, ge=1, le=MOST_CHUNKS, description="vectors a row; 1 switches chunking off"
    )

    @property
    def chunking(self) -> Chunking:
        """The three as one rule."""
        return Chunking(tokens=self.chunk_tokens, overlap=self.chunk_overlap_tokens, most=self.max_chunks)

    @model_validator(mode="after")
    def _overlap_is_a_quarter_at_most(self) -> Self:
        if self.chunk_overlap_tokens > self.chunk_tokens // 4:
            raise ValueError(
                f"AVIARY_CHUNK_OVERLAP_TOKENS ({self.chunk_overlap_tokens}) may be at most a quarter of "
                f"AVIARY_CHUNK_TOKENS ({self.chunk_tokens}); lower the first or raise the second"
            )
        return self


SettingsType = TypeVar("SettingsType", bound=Settings)


def read(settings: type[SettingsType]) -> SettingsType:
    """The settings that the environment gives. Raises ValidationError; `sentence` says what is wrong."""
    return settings()


def from_environment(settings: type[SettingsType], program: str, purpose: str, example: str = "") -> SettingsType:
    """The settings of a service without commands. `--help` lists them, with an example that sets `example`; what is wrong
    is said in one sentence, exit 2."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=purpose,
        epilog=listing(settings) + "\n\nexample, beside a laptop stack that runs:\n"
        f'  eval "$(python -m local env)" && {example}python -m {program}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    try:
        return read(settings)
    except ValidationError as error:
        print(f"{program}: {sentence(error)}; `python -m {program} --help` lists the settings", file=sys.stderr)
        sys.exit(2)


def sentence(error: ValidationError) -> str:
    """What is wrong with the settings, by the names of their variables and without their values."""
    return "settings: " + "; ".join(f"{_variable(found['loc'])}: {found['msg']}" for found in error.errors())


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else ""
    return name if name.isupper() else f"AVIARY_{name.upper()}"


def listing(settings: type[Settings]) -> str:
    """The settings for `--help`: variable, default, meaning."""
    return "settings, from the environment:\n" + "\n".join(_lines(settings))


def _lines(settings: type[Settings]) -> Iterator[str]:
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        variable = str(alias.choices[0]) if isinstance(alias, AliasChoices) else _variable((name,))
        value = (
            "required" if field.is_required() else f"default {field.default}" if _says(field.default) else "optional"
        )
        yield f"  {variable:32} {value}" + (f"; {field.description}" if field.description else "")


def _says(default: object) -> bool:
    """Whether a default is one that tells a reader something."""
    return default is not None and default not in ("", (), {})
