"""What the API, the worker and the CLI share: the domain, the ledger, messaging and services."""
