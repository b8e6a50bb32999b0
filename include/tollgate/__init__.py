"""What Tollgate knows, as plain typed Python: data gates, training jobs, verdicts, registry, serving, experiments."""

__version__ = "0.1.0"
