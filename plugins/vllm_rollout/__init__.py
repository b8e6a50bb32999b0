"""Rollout in Airflow: load and unload adapters, deploy a version on a route, go back."""
