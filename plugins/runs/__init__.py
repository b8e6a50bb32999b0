"""How every run behaves: which errors are tried again, and what the run's note says about a failure."""
