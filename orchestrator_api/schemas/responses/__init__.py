"""What responses look like, as clients may rely on.

``orchestrator_api.render`` writes them, and tests hold it to these schemas; nothing is dumped by them.
"""
