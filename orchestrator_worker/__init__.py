"""The worker: claim, run the plugin, complete; and the sweeper."""
