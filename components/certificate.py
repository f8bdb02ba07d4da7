"""The certificate of the frontend's host name, and the name itself where the zone is ours to change."""

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True, kw_only=True)
class CertificateArgs:
    """Without `hosted_zone_id` a person sets the validation record, which `pulumi up` prints and then waits for."""

    domain_name: str
    hosted_zone_id: str


class Certificate(pulumi.ComponentResource):
    """`arn` is known once the certificate is valid; `validation` is the DNS record that proves the domain is ours."""

    arn: pulumi.Output[str]
    validation: pulumi.Output[dict[str, str]]

    def __init__(self, name: str, args: CertificateArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("aviary:web:Certificate", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        certificate = aws.acm.Certificate(name, domain_name=args.domain_name, validation_method="DNS", opts=child)
        proof = certificate.domain_validation_options[0]
        self.validation = pulumi.Output.all(
            name=proof.resource_record_name, type=proof.resource_record_type, value=proof.resource_record_value
        )
        fqdns = None
        if args.hosted_zone_id:
            record = aws.route53.Record(
                name,
                zone_id=args.hosted_zone_id,
                name=self.validation["name"],
                type=self.validation["type"],
                records=[self.validation["value"]],
                ttl=300,
                allow_overwrite=True,
                opts=child,
            )
            fqdns = [record.fqdn]
        else:
            self.validation.apply(
                lambda record: pulumi.log.info(
                    f"waiting for the DNS record {record['name']} {record['type']} {record['value']}", resource=self
                )
            )
        valid = aws.acm.CertificateValidation(
            name, certificate_arn=certificate.arn, validation_record_fqdns=fqdns, opts=child
        )
        self.arn = valid.certificate_arn
        self.register_outputs({"arn": self.arn, "validation": self.validation})
