"""What must be there before what, so that a first `up` works and a `destroy` ends."""

from tests.infra.engine import Graph, Recorded, changed, with_own_access_logs


def service(graph: Graph, name: str) -> Recorded:
    (found,) = [r for r in graph.all("aws:ecs/service:Service") if r.name.endswith(f"-{name}")]
    return found


def urns(graph: Graph, *types: str, containing: str = "") -> set[str]:
    found = {r.urn for r in graph.all(*types) if containing in r.name}
    assert found, types
    return found


def test_a_service_waits_for_all_that_its_tasks_need(graph: Graph) -> None:
    for name in ("pelican", "emu", "frontend"):
        found = service(graph, name)
        before = graph.before(found)
        assert urns(graph, "aws:cloudwatch/logGroup:LogGroup", containing=f"-{name}") <= before, "log group"
        assert urns(graph, "aws:iam/rolePolicy:RolePolicy", containing=f"-{name}") <= before, "permissions"
        assert urns(graph, "aws:ecs/clusterCapacityProviders:ClusterCapacityProviders", containing=f"-{name}") <= before
        assert urns(graph, "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule") <= before, "ways out"
        assert urns(graph, "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule") <= before, "ways in"
        assert urns(graph, "awsx:ec2:Vpc") <= before, "NAT"
        assert urns(graph, "docker:index/image:Image", containing=f"-{name}") <= before, "image"


def test_services_wait_for_the_secret_they_are_given(graph: Graph) -> None:
    for name in ("emu", "frontend"):
        assert urns(graph, "aws:ssm/parameter:Parameter") <= graph.before(service(graph, name))


def test_a_key_that_pinecone_refuses_reaches_no_task(graph: Graph) -> None:
    """The index is changed with the new key first, and an update ends at the first refusal."""
    (parameter,) = graph.all("aws:ssm/parameter:Parameter")
    assert urns(graph, "pulumi-python:dynamic/pinecone:VectorIndex") <= graph.before(parameter)


def test_the_frontend_waits_for_the_listener_and_for_the_service_that_migrates(graph: Graph) -> None:
    before = graph.before(service(graph, "frontend"))
    forwarding = {
        r.urn for r in graph.all("aws:lb/listener:Listener") if r.inputs["defaultActions"][0]["type"] == "forward"
    }
    assert forwarding
    assert forwarding <= before
    assert service(graph, "pelican").urn in before


def test_no_request_reaches_a_task_before_its_database_is_migrated(graph: Graph) -> None:
    (targets,) = graph.all("aws:lb/targetGroup:TargetGroup")
    assert targets.inputs["healthCheck"]["path"] == "/readyz"
    assert targets.inputs["healthCheck"]["matcher"] == "200"


def test_pelican_waits_for_the_database_and_the_queue(graph: Graph) -> None:
    before = graph.before(service(graph, "pelican"))
    assert urns(graph, "aws:rds/instance:Instance") <= before
    assert urns(graph, "aws:sqs/queue:Queue") <= before


def test_log_groups_stand_before_what_would_make_them_without_an_end(graph: Graph, stack: str) -> None:
    (database,) = graph.all("aws:rds/instance:Instance")
    names = {f"aviary-{stack}-{log}" for log in ("postgresql", "upgrade")}
    assert {r.urn for r in graph.all("aws:cloudwatch/logGroup:LogGroup") if r.name in names} <= graph.before(database)
    for name in ("pelican", "emu", "frontend"):
        insights = {r.urn for r in graph.all("aws:cloudwatch/logGroup:LogGroup") if r.name.endswith(f"{name}-insights")}
        assert bool(insights) == (stack == "prod")
        assert insights <= graph.before(service(graph, name))


def test_the_load_balancer_may_write_its_logs_before_it_is_made(stack: str) -> None:
    graph = with_own_access_logs(stack)
    (balancer,) = graph.all("aws:lb/loadBalancer:LoadBalancer")
    assert urns(graph, "aws:s3/bucketPolicy:BucketPolicy") <= graph.before(balancer)


def test_the_flow_log_may_write_before_it_is_made(graph: Graph, stack: str) -> None:
    (flow,) = graph.all("aws:ec2/flowLog:FlowLog")
    assert graph.one("aws:iam/rolePolicy:RolePolicy", f"aviary-{stack}-flow").urn in graph.before(flow)


def test_private_endpoints_stand_before_the_tasks_that_need_them() -> None:
    graph = changed("dev", networkInterfaceEndpoints='["sqs"]')
    endpoint = graph.one("aws:ec2/vpcEndpoint:VpcEndpoint", "aviary-dev-sqs")
    assert endpoint.urn in graph.before(service(graph, "pelican"))


def test_scaling_comes_after_its_service_and_goes_before_it(graph: Graph) -> None:
    """A destroy goes the other way round: a cluster with a service in it, or a target of a service that is gone, fails."""
    for target in graph.all("aws:appautoscaling/target:Target"):
        assert service(graph, target.name.split("-")[2]).urn in graph.before(target)
    for found in graph.all("aws:ecs/service:Service"):
        assert urns(graph, "aws:ecs/cluster:Cluster", containing=found.name) <= graph.before(found)


def test_nothing_waits_for_itself(graph: Graph) -> None:
    for resource in graph.resources:
        assert resource.urn not in graph.before(resource), resource.name
