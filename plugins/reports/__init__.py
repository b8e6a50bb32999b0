"""Reports of dataset versions as pages of Airflow's web UI, for those who may see the DAG that made them."""
