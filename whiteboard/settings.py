"""Every knob in one typed class, built once in an entry point and handed down.

Each field is an environment variable with the prefix `WHITEBOARD_`, e.g. `WHITEBOARD_KAFKA_BOOTSTRAP=kafka:9092`,
or a line of `.env`. The embedded stack and Compose differ in these values only.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

PORTS = {"fraud": 8001, "recommendation": 8002}  # of the services, unless they are told another


class Settings(BaseSettings):
    """All settings of a process."""

    model_config = SettingsConfigDict(env_prefix="WHITEBOARD_", env_file=".env", extra="ignore", frozen=True)

    env: Literal["development", "production"] = "development"
    home: Path = Field(Path(".whiteboard"), description="where all state lives; may be deleted")

    api_keys: str = Field("", description="NAME:SHA256[:RATE],… beside those of `whiteboard keys add`")
    api_key: SecretStr | None = Field(None, description="what our own clients send: traffic, smoke, load, demo")

    pseudonym_key: SecretStr | None = Field(None, description="of what persons are called in logs; empty: a home's own")

    kafka_bootstrap: str = Field("", description="broker(s) to use; empty: the embedded broker of this home")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_cafile: Path | None = None
    kafka_ssl_certfile: Path | None = None
    kafka_ssl_keyfile: Path | None = None
    kafka_ssl_check_hostname: bool = True
    kafka_client: Literal["kafka-python", "confluent"] = Field(
        "kafka-python", description="the client library of events; confluent, which is faster, is an extra"
    )
    kafka_compression: Literal["none", "gzip", "lz4"] = "lz4"
    kafka_partitions: int = Field(4, ge=1, le=1000)
    kafka_replication_factor: int = Field(1, ge=1, le=9)

    online_store: Literal["sqlite", "redis"] = "sqlite"
    redis_connection: str = Field("127.0.0.1:6379", description="host:port[,password=…] as Feast takes it")

    mlflow_tracking_uri: str = Field("", description="empty: SQLite below the home")
    model_poll_s: float = Field(1.0, gt=0, description="how often a service asks whether the champion alias moved")

    offline_executor: Literal["duckdb", "spark"] = Field("duckdb", description="who computes training sets' features")
    spark_master: str = Field("local[*]", description="local[N]: here, on N cores; spark://…, yarn, k8s://…: a cluster")

    exploration: float = Field(
        0.05, ge=0, lt=1, description="share of would-be declines that go to review instead, so that labels still come"
    )

    deadline_ms: float = Field(
        100.0, gt=0, description="within which a service answers, with what it has by then; half of it bounds the load"
    )
    drain_s: float = Field(
        2.0, ge=0, le=60, description="how long a service that is to end goes on, so that clients change over"
    )
    max_clock_skew_s: float = Field(
        300.0, ge=0, description="how far ahead of a service's clock an event may be dated; later ones are refused"
    )

    item_cache_s: float = Field(
        5.0, ge=0, description="how long a service uses an item's feature row before it reads it again"
    )

    spool_mb: int = Field(
        512, ge=1, description="what may wait for the event log on the disk of each service; beyond it requests get 503"
    )
    rollback: bool = Field(
        True, description="whether the monitor moves @champion back when the version before it would have done better"
    )
    faults: bool = Field(False, description="whether drills may make dependencies fail here; never in production")

    trace_log_share: float = Field(
        1.0, ge=0, le=1, description="share of traces of which each process writes log lines; a line takes 12 µs"
    )

    @property
    def client_key(self) -> str:
        """The API key that our own clients send; empty: none."""
        return self.api_key.get_secret_value() if self.api_key else ""

    @property
    def lake_dir(self) -> Path:
        return self.home / "lake"

    @property
    def spool_dir(self) -> Path:
        return self.home / "spool"

    @property
    def feast_dir(self) -> Path:
        return self.home / "feast"

    @property
    def mlflow_dir(self) -> Path:
        return self.home / "mlflow"

    @property
    def logs_dir(self) -> Path:
        return self.home / "logs"

    @property
    def monitor_dir(self) -> Path:
        return self.home / "monitor"

    @property
    def report_dir(self) -> Path:
        return self.home / "report"

    @property
    def tracking_uri(self) -> str:
        """The MLflow tracking URI; SQLite below the home unless one is set (the file store is refused by MLflow 3)."""
        return self.mlflow_tracking_uri or f"sqlite:///{(self.mlflow_dir / 'mlflow.db').resolve()}"

    def environment(self) -> dict[str, str]:
        """The environment variables that give a child process these same settings."""
        plain = self.model_dump(mode="json", exclude_none=True)
        for name, value in self:
            if isinstance(value, SecretStr):
                plain[name] = value.get_secret_value()
        plain["home"] = str(self.home.resolve())
        return {f"WHITEBOARD_{name.upper()}": str(value) for name, value in plain.items()}
