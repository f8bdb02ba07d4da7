-- The two roles that services log in as. Neither owns anything: each grant stands next to what it is for.
-- Roles belong to the whole cluster, so another database may have made them already, or be making them right now.
DO $$
DECLARE
  service text;
BEGIN
  FOREACH service IN ARRAY ARRAY['aviary_pelican', 'aviary_frontend'] LOOP
    IF to_regrole(service) IS NULL THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I LOGIN', service);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
      END;
    END IF;
    -- On RDS this membership is what allows a login by IAM token.
    IF to_regrole('rds_iam') IS NOT NULL AND NOT pg_has_role(service, 'rds_iam', 'member') THEN
      EXECUTE format('GRANT rds_iam TO %I', service);
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), service);
    EXECUTE format('GRANT USAGE ON SCHEMA sync TO %I', service);
  END LOOP;
END
$$;
