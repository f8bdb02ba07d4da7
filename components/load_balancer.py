"""The only way in: a public load balancer before the frontend, over HTTPS when there is a domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components.security_groups import FRONTEND_PORT, HTTP_PORT, HTTPS_PORT

TLS_POLICY = "ELBSecurityPolicy-TLS13-1-2-2021-06"
# Two and a half minutes of trouble: longer than a database takes to fail over, so that its tasks are not replaced too.
HEALTH_INTERVAL_SECONDS = 30
FAILURES_BEFORE_UNHEALTHY = 5


@dataclass(frozen=True, kw_only=True)
class LoadBalancerArgs:
    """`certificate_arn` is None for a stack without a domain, which speaks plain HTTP. With one, plain HTTP is redirected
    (`http_redirect`) or not heard at all."""

    vpc_id: pulumi.Input[str]
    subnet_ids: pulumi.Input[list[str]]
    security_group_id: pulumi.Input[str]
    access_logs_bucket: pulumi.Input[str]
    domain_name: str
    hosted_zone_id: str
    certificate_arn: pulumi.Input[str] | None
    http_redirect: bool
    deletion_protection: bool
    before: Sequence[pulumi.Resource] = ()


class LoadBalancer(pulumi.ComponentResource):
    """`host` is the name that browsers ask for. `ready` exists once requests reach the target group. `dimensions` are those of its CloudWatch metrics."""

    arn: pulumi.Output[str]
    url: pulumi.Output[str]
    host: pulumi.Output[str]
    dns_name: pulumi.Output[str]
    target_group_arn: pulumi.Output[str]
    dimensions: Mapping[str, pulumi.Output[str]]
    ready: pulumi.Resource

    def __init__(self, name: str, args: LoadBalancerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:web:LoadBalancer", name, None, opts)
        self._child = pulumi.ResourceOptions(parent=self)
        balancer = aws.lb.LoadBalancer(
            f"{name}-alb",
            load_balancer_type="application",
            internal=False,
            subnets=args.subnet_ids,
            security_groups=[args.security_group_id],
            drop_invalid_header_fields=True,
            desync_mitigation_mode="strictest",
            enable_deletion_protection=args.deletion_protection,
            idle_timeout=60,
            access_logs={"bucket": args.access_logs_bucket, "enabled": True},
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.before)),
        )
        targets = aws.lb.TargetGroup(
            f"{name}-web",
            vpc_id=args.vpc_id,
            target_type="ip",
            port=FRONTEND_PORT,
            protocol="HTTP",
            deregistration_delay=30,
            # Readiness, so that no request reaches a task before its database has the tables that it reads.
            health_check={
                "path": "/readyz",
                "matcher": "200",
                "interval": HEALTH_INTERVAL_SECONDS,
                "timeout": 5,
                "healthy_threshold": 2,
                "unhealthy_threshold": FAILURES_BEFORE_UNHEALTHY,
            },
            opts=self._child,
        )
        self.ready = self._listen(name, balancer, targets, args)
        if args.hosted_zone_id:
            aws.route53.Record(
                name,
                zone_id=args.hosted_zone_id,
                name=args.domain_name,
                type="A",
                aliases=[{"name": balancer.dns_name, "zone_id": balancer.zone_id, "evaluate_target_health": True}],
                opts=self._child,
            )
        self.arn = balancer.arn
        self.dns_name = balancer.dns_name
        self.host = (
            pulumi.Output.from_input(args.domain_name) if args.certificate_arn is not None else balancer.dns_name
        )
        self.url = (
            pulumi.Output.from_input(f"https://{args.domain_name}")
            if args.certificate_arn is not None
            else pulumi.Output.concat("http://", balancer.dns_name)
        )
        self.target_group_arn = targets.arn
        self.dimensions = {"LoadBalancer": balancer.arn_suffix, "TargetGroup": targets.arn_suffix}
        self.register_outputs(
            {
                "arn": self.arn,
                "url": self.url,
                "host": self.host,
                "dns_name": self.dns_name,
                "target_group_arn": self.target_group_arn,
            }
        )

    def _listen(
        self,
        name: str,
        balancer: aws.lb.LoadBalancer,
        targets: aws.lb.TargetGroup,
        args: LoadBalancerArgs,
    ) -> aws.lb.Listener:
        """The listener that forwards; with a certificate, plain HTTP at most redirects to it."""
        forward: aws.lb.ListenerDefaultActionArgsDict = {"type": "forward", "target_group_arn": targets.arn}
        if args.certificate_arn is None:
            return self._listener(f"{name}-http", balancer, HTTP_PORT, forward)
        if args.http_redirect:
            self._listener(
                f"{name}-http",
                balancer,
                HTTP_PORT,
                {
                    "type": "redirect",
                    "redirect": {"port": str(HTTPS_PORT), "protocol": "HTTPS", "status_code": "HTTP_301"},
                },
            )
        return aws.lb.Listener(
            f"{name}-https",
            load_balancer_arn=balancer.arn,
            port=HTTPS_PORT,
            protocol="HTTPS",
            ssl_policy=TLS_POLICY,
            certificate_arn=args.certificate_arn,
            default_actions=[forward],
            opts=self._child,
        )

    def _listener(
        self, name: str, balancer: aws.lb.LoadBalancer, port: int, action: "aws.lb.ListenerDefaultActionArgsDict"
    ) -> aws.lb.Listener:
        return aws.lb.Listener(
            name, load_balancer_arn=balancer.arn, port=port, protocol="HTTP", default_actions=[action], opts=self._child
        )
