"""The ledger in PostgreSQL: SQL files and the thin typed Python around them."""
