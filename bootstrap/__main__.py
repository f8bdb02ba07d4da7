"""Run once, by a person, before anything else: `pulumi up` in this folder (docs/deploy.md has every step).

It makes the bucket and the key for Pulumi's state, the bucket for prod's access logs, the certificate of prod's domain, and
four roles for GitHub's workflows, which hold no AWS keys: preview (pull requests, reads), drift (main, reads), and deploy
in the environments dev and prod.
"""

import re
import sys
from pathlib import Path

import pulumi
import pulumi_aws as aws

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository: this folder is a package of it

from bootstrap.roles import Roles
from bootstrap.state import State
from components.access_logs import AccessLogs, AccessLogsArgs
from components.account import Account
from components.certificate import Certificate, CertificateArgs

config = pulumi.Config()
repository = config.require("repository")
if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
    raise pulumi.RunError(
        f"aviary-bootstrap:repository is {repository!r}, but it must be owner/name; "
        "run `pulumi config set repository owner/name`"
    )
domain_name, hosted_zone_id = config.get("domainName") or "", config.get("hostedZoneId") or ""
if hosted_zone_id and not domain_name:
    raise pulumi.RunError(
        "aviary-bootstrap:domainName is '', but it must be set, because hostedZoneId is; "
        "run `pulumi config set domainName search.example.org`"
    )

region = aws.get_region_output().region
account_id = aws.get_caller_identity_output().account_id
partition = aws.get_partition_output().partition

state = State("aviary-state", region=region, account_id=account_id, partition=partition)
# The traces of prod outlive the stack, and its deployments cannot touch them. One for the account and region.
access_logs = AccessLogs(
    "aviary-access-logs",
    AccessLogsArgs(
        account=Account(region=pulumi.Config("aws").require("region"), account_id=account_id, partition=partition),
        days=config.get_int("accessLogDays") or 400,
        force_destroy=False,
        bucket_name=pulumi.Output.concat("aviary-access-logs-", account_id),
    ),
    opts=pulumi.ResourceOptions(protect=True),
)
# That the domain is ours is proven by a person, which must not hold up a deployment; and the certificate outlives the stack.
certificate = (
    Certificate(
        "aviary",
        CertificateArgs(domain_name=domain_name, hosted_zone_id=hosted_zone_id),
        opts=pulumi.ResourceOptions(protect=True),
    )
    if domain_name
    else None
)
roles = Roles(
    "aviary-github",
    repository=repository,
    main_branch=config.get("mainBranch") or "main",
    create_provider=config.get_bool("createProvider") is not False,
    state=state,
    access_logs_arn=access_logs.arn,
    certificate_is_made_here=certificate is not None,
    account_id=account_id,
    partition=partition,
)

pulumi.export("PULUMI_BACKEND_URL", state.backend_url)
pulumi.export("PULUMI_SECRETS_PROVIDER", state.secrets_provider)
pulumi.export("ACCESS_LOG_BUCKET", access_logs.bucket)
if certificate:
    pulumi.export("CERTIFICATE_VALIDATION", certificate.validation)
    pulumi.export("CERTIFICATE_ARN", certificate.arn)
pulumi.export("AWS_PREVIEW_ROLE_ARN", roles.preview.arn)
pulumi.export("AWS_DRIFT_ROLE_ARN", roles.drift.arn)
pulumi.export("AWS_DEPLOY_ROLE_ARN_dev", roles.deploy["dev"].arn)
pulumi.export("AWS_DEPLOY_ROLE_ARN_prod", roles.deploy["prod"].arn)
