"""Containers as Airflow tasks: resumable, GPU-leased, or a plain process group where there is no Docker."""
