"""Reports of dataset versions and experiments in Airflow's web UI, for those who may see the DAG that made them."""
