#!/bin/sh
# Runs once, when the database server is new: a user and a database of its own for Airflow, MLflow and Tollgate.
set -eu
create() {
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set name="$1" --set password="$2" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
SQL
}
create airflow "$AIRFLOW_DATABASE_PASSWORD"
create mlflow "$MLFLOW_DATABASE_PASSWORD"
create tollgate "$TOLLGATE_DATABASE_PASSWORD"
