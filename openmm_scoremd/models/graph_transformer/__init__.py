"""The graph transformer: its family, its network, and its folded and explicit forms."""
