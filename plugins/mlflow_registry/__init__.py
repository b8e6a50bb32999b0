"""The model registry in Airflow: register a job's model, promote it, archive it."""
