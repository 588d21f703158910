"""What names a function to the Lambda API, and what calling it needs of IAM."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

from streamcore._partitions import partition_of
from streamcore.errors import ConfigError

__all__ = ["FunctionName"]

_NAME = r"(?P<name>[a-zA-Z0-9_-]{1,140})(:(?P<qualifier>\$LATEST|[a-zA-Z0-9_-]{1,128}))?"
_ARN = re.compile(rf"arn:(?P<partition>aws[a-z-]*):lambda:(?P<region>[a-z0-9-]+):(?P<account>\d{{12}}):function:{_NAME}")
_SHORT = re.compile(_NAME)
_NO_ACCOUNT = "000000000000"


@dataclass(frozen=True, slots=True)
class FunctionName:
    """What names a function to the Lambda API.

    Attributes:
        name: its name.
        qualifier: a version, an alias or "$LATEST"; None for the unqualified function.
        partition, region, account: of its ARN; None where it was given by name.
    """

    name: str
    qualifier: str | None = None
    partition: str | None = None
    region: str | None = None
    account: str | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        """Read `NAME`, `NAME:QUALIFIER` or an ARN with or without qualifier.

        Raises:
            ConfigError: the text is none of these.

        Example:
            >>> FunctionName.read("arn:aws:lambda:eu-west-1:123456789012:function:billing:live").qualifier
            'live'
        """
        found = _ARN.fullmatch(text) or _SHORT.fullmatch(text)
        if found is None:
            right = "NAME, NAME:QUALIFIER or arn:aws:lambda:REGION:ACCOUNT:function:NAME[:QUALIFIER]"
            raise ConfigError(f"a function of the Lambda API is named by {right}, not {text!r}", parameter="function")
        return cls(**found.groupdict())

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read `lambda:NAME[:QUALIFIER]` or an ARN, as `--function` has it; None for what names another kind of function.

        Raises:
            ConfigError: the text begins like one of these and goes on otherwise.
        """
        if text.startswith("lambda:"):
            return cls.read(text.removeprefix("lambda:"))
        return cls.read(text) if text.startswith("arn:") else None

    def arn(self, region: str | None = None, account: str | None = None) -> str:
        """Return the ARN, with what is known of region and account where it was given by name."""
        where = self.region or region or "us-east-1"
        partition = self.partition or partition_of(where)
        qualifier = f":{self.qualifier}" if self.qualifier else ""
        return f"arn:{partition}:lambda:{where}:{self.account or account or _NO_ACCOUNT}:function:{self.name}{qualifier}"

    def policy_statement(self, region: str | None = None) -> dict[str, Any]:
        """Return the statement of an IAM policy that a run with this function needs (service authorization reference of Lambda).

        What a name does not say, region and account, is any.

        Example:
            >>> FunctionName.read("billing").policy_statement("eu-west-1")["Resource"]
            'arn:aws:lambda:eu-west-1:*:function:billing'
        """
        actions = ["lambda:InvokeFunction", "lambda:GetFunctionConfiguration"]
        return {"Effect": "Allow", "Action": actions, "Resource": self.arn(region or "*", "*")}
