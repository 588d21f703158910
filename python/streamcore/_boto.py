"""Clients of boto3, which is imported when the first one is made: only who calls AWS has it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from streamcore._distribution import DISTRIBUTION, version
from streamcore.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["configured_endpoint", "make_client"]


def make_client(service: str, *, who: str, region: str | None, endpoint_url: str | None, profile: str | None, **config: Any) -> Any:
    """Return a boto3 client.

    Args:
        service: as "sqs".
        who: what needs boto3, for the message that it is not installed.
        region: where the service is called; by default what the environment or the profile says. At an endpoint of one's own it need not
            be known, since a server there seldom minds.
        endpoint_url: another server than AWS's own; by default what the environment or the profile says.
        profile: a profile of the shared configuration files.
        config: of `botocore.config.Config`.

    Raises:
        ConfigError: boto3 is not installed, or region, profile or endpoint cannot be right.
    """
    with _config_errors(service, who):
        import boto3  # noqa: PLC0415  (only who calls AWS has it; the same below)
        from botocore.config import Config  # noqa: PLC0415  (as boto3)
        from botocore.session import Session  # noqa: PLC0415  (as boto3)

        session = Session(profile=profile)
        session.get_scoped_config()  # a profile that is not there is told of here
        endpoint_url = endpoint_url or configured_endpoint(session, service)
        region = region or session.get_config_variable("region") or ("us-east-1" if endpoint_url else None)
        options = Config(tcp_keepalive=True, user_agent_extra=f"{DISTRIBUTION}/{version()}", **config)
        made = boto3.session.Session(botocore_session=session)
        return made.client(service, region_name=region, endpoint_url=endpoint_url, config=options)


def configured_endpoint(session: Any, service: str) -> str | None:
    """Return the endpoint that environment or profile name (AWS SDKs and tools reference guide, "Service-specific endpoints").

    Args:
        session: of botocore.
        service: as "sqs".
    """
    from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415  (as boto3)

    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    provider = ConfiguredEndpointProvider(full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name=service)
    found: str | None = provider.provide()
    return found


@contextlib.contextmanager
def _config_errors(service: str, who: str) -> Iterator[None]:
    """Say in our own words what a client cannot be made of."""
    try:
        from botocore.exceptions import BotoCoreError, NoRegionError, ProfileNotFound  # noqa: PLC0415  (as boto3)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{who} needs boto3, which is not installed: pip install '{DISTRIBUTION}[aws]'") from error
    try:
        yield
    except NoRegionError:
        message = "no region: give one with --region or region=, in AWS_REGION, AWS_DEFAULT_REGION or in the profile"
        raise ConfigError(message, parameter="region") from None
    except ProfileNotFound as error:
        raise ConfigError(str(error), parameter="profile") from None
    except ValueError as error:  # botocore's words for a URL that cannot be used
        raise ConfigError(f"{error}; an endpoint is a URL like http://127.0.0.1:4566", parameter="endpoint_url") from None
    except BotoCoreError as error:
        raise ConfigError(f"no client of {service} can be made: {error}") from error
