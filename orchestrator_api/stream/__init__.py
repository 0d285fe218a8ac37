"""The event stream: one reader of the ledger and one thread for all sockets, for any number of clients."""
