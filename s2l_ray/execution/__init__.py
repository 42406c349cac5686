"""Everything that knows Ray: connecting, work over parts, actors, nodes, progress."""
