"""What the dead letter commands are given, from the environment."""

from pydantic import AliasChoices, Field, SecretStr

from aviary.settings import Settings


class DlqSettings(Settings):
    """Only the dead letter queue is needed always. Without the index, or without the database, less can be told of a
    letter; only `redrive` must have the database."""

    dlq_url: str
    queue_url: str = Field(default="", description="for `redrive --resend`")
    postgres_dsn: SecretStr | None = Field(default=None, description="for `redrive`, and to see which rows are gone")
    pinecone_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("PINECONE_API_KEY", "AVIARY_PINECONE_API_KEY"),
        description="with AVIARY_INDEX_HOST: to see which letters are void",
    )
    index_host: str = ""
    pinecone_timeout_seconds: float = Field(default=10, gt=0)
