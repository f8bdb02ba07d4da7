"""The laptop stack: real Postgres, moto for SQS and SNS, a Pinecone stand-in, and the three services as processes."""
