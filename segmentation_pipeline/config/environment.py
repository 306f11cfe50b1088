"""The environment variables that the package reads, with their types and defaults.

Does not validate them: the module that uses a variable does, because an invalid one must not fail a command that does
not use it.
"""

import os
from dataclasses import dataclass

from pydantic import SecretStr

PRIVACY_KEY = "SEGMENTATION_PRIVACY_KEY"
WEBHOOK = "SEGMENTATION_WEBHOOK"
MEMORY_LIMIT = "SEGMENTATION_MEMORY_LIMIT"
DATA = "SEGMENTATION_DATA"
RETAILER = "SEGMENTATION_RETAILER"
SOURCE = "SEGMENTATION_SOURCE"
DAGSTER_HOME = "DAGSTER_HOME"
XDG_DATA_HOME = "XDG_DATA_HOME"


def connection_string(name: str) -> SecretStr:
    """Return the value of an environment variable that `source.connection` names; empty where it is not set."""
    return SecretStr(os.environ.get(name, ""))


# Not pydantic-settings: its import takes 70-90 ms of the 300 ms that a short command takes, and it would validate all
# variables whenever one is read.
@dataclass(frozen=True)
class Environment:
    """The values of the environment variables; an empty variable counts as unset."""

    retailer: str
    """SEGMENTATION_RETAILER: a shipped retailer's name or a retailer file's path. Default: sample."""
    source: str
    """SEGMENTATION_SOURCE: replaces `source.path` of the retailer file. Default: empty, which replaces nothing."""
    data: str
    """SEGMENTATION_DATA: the data folder. Default: empty, see `paths.data_folder`."""
    memory_limit: str
    """SEGMENTATION_MEMORY_LIMIT: the memory that a run may use, such as 4GB. Default: empty, which is 2.5 GB."""
    webhook: SecretStr
    """SEGMENTATION_WEBHOOK: the address that failures are posted to. Default: empty, which posts nothing."""
    privacy_key: SecretStr
    """SEGMENTATION_PRIVACY_KEY: the key of pseudonyms and erasures. Default: empty, which is no key."""
    dagster_home: str
    """DAGSTER_HOME: Dagster's folder. Default: empty, see `paths.dagster_home`."""
    user_data_home: str
    """XDG_DATA_HOME: the folder of the user's data. Default: ~/.local/share."""

    @classmethod
    def read(cls) -> "Environment":
        """Return the values as they are now."""
        return cls(
            retailer=os.environ.get(RETAILER) or "sample",
            source=os.environ.get(SOURCE, ""),
            data=os.environ.get(DATA, ""),
            memory_limit=os.environ.get(MEMORY_LIMIT, ""),
            webhook=SecretStr(os.environ.get(WEBHOOK, "")),
            privacy_key=SecretStr(os.environ.get(PRIVACY_KEY, "")),
            dagster_home=os.environ.get(DAGSTER_HOME, ""),
            user_data_home=os.environ.get(XDG_DATA_HOME) or "~/.local/share",
        )
