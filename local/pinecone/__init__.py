"""A stand-in for Pinecone on a laptop: control plane and data plane over HTTP for the unchanged official SDK.

Exact search over numpy arrays, persisted in an append-only log, with Pinecone's limits and error shapes enforced.
Where Pinecone's behaviour is not documented, the harder case for a client was taken (see each module's notes).
"""
